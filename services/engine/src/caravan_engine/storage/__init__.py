"""What the engine host reads and keeps on disk."""
