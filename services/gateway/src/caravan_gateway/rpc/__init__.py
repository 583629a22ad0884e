"""The public servicers; thin, and nothing else."""
