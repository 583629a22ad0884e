"""The decode thread and what leaves it: text, events and numbers."""
