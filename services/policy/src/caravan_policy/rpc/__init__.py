"""The served contracts: thin servicers, and the conversion between wire and domain."""
