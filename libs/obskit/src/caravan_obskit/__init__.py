"""Logging, tracing, instruments and the operations HTTP port."""
