"""The engine service: models on disk, their worker processes, and the decoding inside them."""
