"""Adapters of the domain's ports to a database."""
