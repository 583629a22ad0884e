"""Admission, routing and principal rules in pure Python: no I/O, no wire types, no clock."""
