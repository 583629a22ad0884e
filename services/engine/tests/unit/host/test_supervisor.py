import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from caravan_engine.host.restart_policy import RestartPolicy, RestartRules
from caravan_engine.host.supervisor import ReplicaState, Supervisor, SupervisorTimes
from caravan_engine.host.worker_log import WorkerLog
from caravan_engine.host.worker_process import WorkerProcess
from caravan_rpckit.errors import Reason

DUMMY = str(Path(__file__).with_name("dummy_worker.py"))


class Scene:
    """A supervisor over dummy workers, each start playing the next script."""

    def __init__(self, *scripts, start_silence_s=30.0, end_grace_s=5.0, hangs=None):
        self.hangs = hangs or asyncio.Event()
        self.watched = []
        self.num_watches = 0
        self.scripts = list(scripts)
        self.statuses = []
        self.progress = []
        self.log = []
        self.drained = []
        self._changed = asyncio.Event()
        self.supervisor = Supervisor(
            "dummy",
            self._launch,
            policy=RestartPolicy(RestartRules(initial_backoff_s=0.01, max_backoff_s=0.02)),
            times=SupervisorTimes(start_silence_s=start_silence_s, end_grace_s=end_grace_s),
            on_change=self._on_change,
            on_progress=self.progress.append,
            watch=self._watch,
        )

    async def _launch(self, _worker_id):
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        return await WorkerProcess.start(
            [sys.executable, DUMMY],
            json.dumps(script).encode() + b"\n",
            log=WorkerLog("dummy", self.log.append),
            environment=os.environ,
        )

    async def _watch(self, port):
        self.watched.append(port)
        self.num_watches += 1
        try:
            await self.hangs.wait()
        finally:
            self.num_watches -= 1
        return "hangs"

    def _on_change(self):
        self.statuses.append(self.supervisor.status)
        self._changed.set()

    async def until(self, state):
        async with asyncio.timeout(20):
            while self.supervisor.status.state is not state:
                self._changed.clear()
                await self._changed.wait()
        return self.supervisor.status

    async def drain(self, port, timeout_s):
        self.drained.append((port, timeout_s))
        return 3

    async def stop(self):
        return await self.supervisor.stop(self.drain, 1.0)

    def states(self):
        states = [status.state for status in self.statuses]
        return [state for index, state in enumerate(states) if states[index - 1 : index] != [state]]


@pytest.fixture
async def play():
    scenes = []

    def start(*scripts, **times):
        scene = Scene(*scripts, **times)
        scenes.append(scene)
        scene.supervisor.start()
        return scene

    yield start
    for scene in scenes:
        await scene.stop()


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


READY = [["progress", 0.5], ["ready", 7001], ["serve", None]]
READY_ELSEWHERE = [["ready", 7002], ["serve", None]]


async def test_a_worker_becomes_ready_with_its_port_and_details(play):
    scene = play(READY)

    status = await scene.until(ReplicaState.READY)

    assert status.port == 7001
    assert status.details.description == "a dummy"
    assert is_alive(status.process_id)
    assert [progress.fraction for progress in scene.progress] == [0.5]


async def test_a_killed_worker_is_started_again_under_another_id(play):
    scene = play(READY, READY_ELSEWHERE)
    first = await scene.until(ReplicaState.READY)

    os.kill(first.process_id, signal.SIGKILL)
    restarting = await scene.until(ReplicaState.RESTARTING)
    second = await scene.until(ReplicaState.READY)

    assert "SIGKILL" in restarting.detail
    assert restarting.port is None
    assert (second.port, second.restart_count, second.detail) == (7002, 1, "")
    assert second.worker_id != first.worker_id


async def test_three_starts_that_never_became_ready_end_as_failed_with_the_reason(play):
    scene = play([["failed", "the file is cut off"], ["exit", 3]])

    status = await scene.until(ReplicaState.FAILED)

    assert status.detail == "the file is cut off"
    assert status.restart_count == 2
    assert scene.supervisor.failure.reason is Reason.MODEL_FILE_INVALID
    assert status.process_id is None


async def test_a_start_that_dies_without_a_word_says_how(play):
    scene = play([["exit", 9]])

    assert "exit status 9" in (await scene.until(ReplicaState.FAILED)).detail


async def test_becoming_ready_resets_the_count_of_failed_starts(play):
    broken, fleeting = [["exit", 1]], [["ready", 7001], ["exit", 1]]
    scene = play(broken, broken, fleeting, broken, broken, READY)

    await scene.until(ReplicaState.READY)  # fleeting
    await scene.until(ReplicaState.RESTARTING)
    status = await scene.until(ReplicaState.READY)

    assert status.restart_count == 5


async def test_a_hung_start_is_killed_and_counts_as_failed(play):
    scene = play([["progress", 0.1], ["deaf", None]], start_silence_s=0.5, end_grace_s=0.1)
    async with asyncio.timeout(20):
        while scene.supervisor.status.process_id is None:
            await asyncio.sleep(0)
    first = scene.supervisor.status.process_id

    status = await scene.until(ReplicaState.FAILED)

    assert "no sign" in status.detail
    assert not is_alive(first)


async def test_a_ready_worker_may_be_silent_for_ever(play):
    scene = play(READY, start_silence_s=0.5)
    status = await scene.until(ReplicaState.READY)
    await asyncio.sleep(0.7)

    assert scene.supervisor.status == status


async def test_stopping_drains_and_leaves_no_process(play):
    scene = play(READY)
    pid = (await scene.until(ReplicaState.READY)).process_id

    assert await scene.stop() == 3
    assert scene.drained == [(7001, 1.0)]
    assert scene.states()[-2:] == [ReplicaState.DRAINING, ReplicaState.ENDED]
    assert not is_alive(pid)


async def test_stopping_kills_a_worker_that_ignores_the_end_of_its_input(play):
    scene = play([["ready", 7001], ["deaf", None]], end_grace_s=0.1)
    pid = (await scene.until(ReplicaState.READY)).process_id

    await scene.stop()

    assert not is_alive(pid)


async def test_stopping_during_a_start_drains_nothing_and_leaves_no_process(play):
    scene = play([["progress", 0.1], ["serve", None]])
    async with asyncio.timeout(20):
        while not scene.progress:
            await asyncio.sleep(0)
    pid = scene.supervisor.status.process_id

    assert await scene.stop() == 0
    assert scene.drained == []
    assert not is_alive(pid)


async def test_stopping_while_it_waits_to_restart_starts_nothing_more(play):
    scene = play([["exit", 1]])
    await scene.until(ReplicaState.RESTARTING)

    assert await scene.stop() == 0
    assert scene.supervisor.status.state is ReplicaState.ENDED


async def test_lines_that_are_no_events_are_passed_over(play):
    noise = [["print", 'llama: hello\n{"event": "ready"}\n' + "x" * 100_000 + "\n"]]
    scene = play([*noise, *READY])

    assert (await scene.until(ReplicaState.READY)).port == 7001


async def test_structured_log_lines_pass_through(play):
    scene = play([["log", '{"event": "loaded"}'], ["log", "chatter"], *READY])
    await scene.until(ReplicaState.READY)
    await scene.stop()

    assert scene.log == ['{"event": "loaded"}']


async def failed_supervisor(launch):
    """A supervisor that has given up on what `launch` does."""
    failed = asyncio.Event()
    supervisor = Supervisor(
        "broken",
        launch,
        policy=RestartPolicy(RestartRules(initial_backoff_s=0.01)),
        times=SupervisorTimes(),
        on_change=lambda: failed.set() if supervisor.status.state is ReplicaState.FAILED else None,
        on_progress=print,
    )
    supervisor.start()
    async with asyncio.timeout(20):
        await failed.wait()

    return supervisor


async def test_a_program_that_cannot_be_started_counts_as_a_failed_start():
    async def launch(_worker_id):
        return await WorkerProcess.start(
            ["/nowhere/program"], b"", log=WorkerLog("x", print), environment={}
        )

    supervisor = await failed_supervisor(launch)
    assert "could not be started" in supervisor.status.detail


async def test_a_fault_of_our_own_while_starting_is_told_and_not_retried():
    async def launch(_worker_id):
        raise ZeroDivisionError

    supervisor = await failed_supervisor(launch)
    assert supervisor.failure.reason is Reason.INTERNAL


async def test_a_worker_that_hangs_is_killed_without_a_word_and_started_again(play):
    hangs = asyncio.Event()
    scene = play(READY, READY_ELSEWHERE, hangs=hangs, end_grace_s=20.0)
    first = await scene.until(ReplicaState.READY)
    os.kill(first.process_id, signal.SIGSTOP)

    hangs.set()
    restarting = await scene.until(ReplicaState.RESTARTING)
    hangs.clear()

    assert restarting.detail == "its worker hangs"
    assert not is_alive(first.process_id)
    assert (await scene.until(ReplicaState.READY)).port == 7002
    await scene.stop()
    assert scene.watched[0] == 7001


async def test_a_worker_that_dies_is_not_watched_any_more(play):
    scene = play(READY, [["progress", 0.5], ["serve", None]])
    first = await scene.until(ReplicaState.READY)
    os.kill(first.process_id, signal.SIGKILL)
    await scene.until(ReplicaState.RESTARTING)
    assert scene.num_watches == 0
