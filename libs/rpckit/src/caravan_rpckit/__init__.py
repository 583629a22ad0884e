"""Server and channel assembly, interceptors, error mapping, health and TLS of every service."""
