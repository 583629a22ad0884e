import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode doesn't

from host_world import World


@pytest.fixture
async def make_world():
    worlds = []

    def make(**options):
        worlds.append(World(**options))
        return worlds[-1]

    yield make
    for world in worlds:
        world.drain_gate.set()
        await world.manager.shut_down(0)


@pytest.fixture
async def world(make_world):
    world = make_world()
    await world.manager.refresh()
    return world
