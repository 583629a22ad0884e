"""What moves while the service runs: threads that block, changes on their way, watchers."""
