"""What drives the domain on the event loop: running calls, their end, and delivery of records."""
