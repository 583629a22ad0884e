"""The telemetry service: what was used and how it went; never sits on the request path."""
