"""Settings loading, data directories with their locks, and process lifecycle."""
