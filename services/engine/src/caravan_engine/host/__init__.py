"""The engine host: which models there are, which workers run, and that they keep running."""
