"""The gateway as a client of policy, engine hosts, workers and telemetry."""
