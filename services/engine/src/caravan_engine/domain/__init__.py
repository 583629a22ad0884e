"""Scheduling, paging and sampling rules in pure Python: no I/O, no wire types, no clock."""
