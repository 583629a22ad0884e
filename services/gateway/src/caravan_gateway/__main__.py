"""Runs the gateway: `python -m caravan_gateway`."""

import sys

from caravan_gateway.app import GatewayApp
from caravan_gateway.config import GatewaySettings
from caravan_servicekit.process import run_main

if __name__ == "__main__":
    sys.exit(run_main(GatewaySettings, GatewayApp.create))
