"""What is known of running requests beyond the life of their worker."""
