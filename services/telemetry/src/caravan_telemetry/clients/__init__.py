"""Adapters to what the service calls."""
