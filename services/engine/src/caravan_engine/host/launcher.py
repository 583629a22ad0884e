"""How a worker process is started: command, environment, settings, port."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from caravan_engine.config import ContextSettings, EngineSettings
from caravan_engine.control.settings import WorkerSettings
from caravan_engine.host.placement import WorkerPorts
from caravan_engine.host.registry import ModelFile, file_fault
from caravan_engine.host.served_model import WorkerOrder
from caravan_engine.host.worker_log import WorkerLog
from caravan_engine.host.worker_process import WorkerProcess
from caravan_engine.machine import num_usable_cores

# Of no use to workers, and theirs is the process that runs native code on clients' input.
_SECRET_VARIABLES = ("CARAVAN_API_KEY",)


class WorkerLauncher:
    """Starts workers of one host.

    Args:
        settings: the engine's settings.
        ports: where workers listen.
        log_sink: takes the workers' structured log lines.
        describe: looks at a file on disk as it is now.
        on_start: is told the model of each started process.
    """

    def __init__(
        self,
        settings: EngineSettings,
        ports: WorkerPorts,
        *,
        log_sink: Callable[[str], None],
        describe: Callable[[Path], ModelFile],
        on_start: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._ports = ports
        self._log_sink = log_sink
        self._describe = describe
        self._on_start = on_start

    async def launch(self, order: WorkerOrder, worker_id: str) -> WorkerProcess:
        """Starts the worker of `order`.

        Raises:
            OSError: the program can't be started.
            NoFreePortError: no port is left.
            ModelFileInvalidError: the file is not what it was when its digest was taken.
        """
        self._require_unchanged(order.file)
        settings = self._worker_settings(order, worker_id, self._ports.take(order.label))
        process = await WorkerProcess.start(
            # The label is for whoever looks at the list of processes.
            (sys.executable, "-P", "-m", "caravan_engine.worker", order.label),
            settings.to_line(),
            log=WorkerLog(
                order.label, self._log_sink, prettifies_metrics=self._settings.metrics.pretty
            ),
            environment=_worker_environment(os.environ),
        )
        self._on_start(order.file.name)
        return process

    def _require_unchanged(self, file: ModelFile) -> None:
        now = self._describe(file.path)
        now.require_sound()
        if (now.size_bytes, now.modified_ns) != (file.size_bytes, file.modified_ns):
            raise file_fault(file.name, "changed on disk; unload the model and load it again")

    def _worker_settings(self, order: WorkerOrder, worker_id: str, port: int) -> WorkerSettings:
        return WorkerSettings(
            worker_id=worker_id,
            model=order.file.name,
            model_path=order.file.path,
            model_digest=order.digest,
            replica_index=order.replica_index,
            address=f"{self._settings.workers.listen_host}:{port}",
            home=self._settings.home,
            drain_timeout_s=self._settings.workers.drain_timeout_s,
            log_level=self._settings.log.level,
            telemetry_address=self._settings.telemetry.address,
            context=self._context_of(order),
            kv=self._settings.kv,
            host_page_bytes=order.host_page_bytes,
            queue=self._settings.queue,
            retention=self._settings.retention,
            journal=self._settings.journal,
            handover=self._settings.handover,
            chat=self._settings.chat,
            metrics=self._settings.metrics,
        )

    def _context_of(self, order: WorkerOrder) -> ContextSettings:
        """Threads that nobody set are divided; more than cores would spin for each other."""
        context = self._settings.context
        if context.threads or order.replica_count == 1:
            return context
        threads = max(1, num_usable_cores() // order.replica_count)
        return context.model_copy(update={"threads": threads})


def _worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in environment.items() if name not in _SECRET_VARIABLES}
    return {**kept, "GGML_NO_BACKTRACE": "1"}
