"""Other processes that the engine host talks to: its workers and telemetry."""
