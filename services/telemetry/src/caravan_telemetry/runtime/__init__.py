"""What runs beside the calls: the thread that stores, the removal of old records."""
