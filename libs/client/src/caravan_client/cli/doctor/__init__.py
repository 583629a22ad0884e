"""`caravan doctor`: bounded probes gather facts, checks look at them, a report is printed.

Checks are pure functions from facts to findings; `checks.CHECKS` lists them all.
"""
