import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode doesn't

from host_world import World


@pytest.fixture
async def world():
    world = World()
    await world.manager.refresh()
    yield world
    world.drain_gate.set()
    await world.manager.shut_down(0)
