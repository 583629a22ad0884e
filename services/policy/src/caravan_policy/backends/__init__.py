"""Adapters to libraries that decide."""
