"""`python -m caravan_engine`: reads the settings and runs the engine host."""

import sys

from caravan_engine.app import EngineApp
from caravan_engine.config import EngineSettings
from caravan_servicekit.process import run_main

if __name__ == "__main__":
    sys.exit(run_main(EngineSettings, EngineApp.create))
