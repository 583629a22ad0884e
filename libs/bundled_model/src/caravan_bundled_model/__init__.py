"""The small model that makes the first run work offline."""
