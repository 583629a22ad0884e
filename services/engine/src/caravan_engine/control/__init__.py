"""What a host and its workers say to each other over pipes."""
