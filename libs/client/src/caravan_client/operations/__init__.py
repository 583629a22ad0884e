"""Each call as a value: which method, which bytes, and how to read the answer. No I/O."""
