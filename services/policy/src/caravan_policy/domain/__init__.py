"""Identities, roles and decisions in pure Python: no I/O, no wire types, no clock."""
