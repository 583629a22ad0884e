"""Runs the telemetry service: `python -m caravan_telemetry`."""

import sys

from caravan_servicekit.process import run_main
from caravan_telemetry.app import TelemetryApp
from caravan_telemetry.config import TelemetrySettings

if __name__ == "__main__":
    sys.exit(run_main(TelemetrySettings, TelemetryApp.create))
