"""Usage records and aggregation rules in pure Python: no I/O, no wire types, no clock."""
