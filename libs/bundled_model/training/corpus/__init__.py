"""The generated corpus: everything that the bundled model reads, made from templates by seed."""
