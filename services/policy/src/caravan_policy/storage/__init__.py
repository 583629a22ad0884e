"""Adapters of the domain's ports to a database and to files."""
