"""How a worker process is started: command, environment, settings, port."""

import os
import sys
from collections.abc import Callable, Mapping

from caravan_engine.config import EngineSettings
from caravan_engine.control.settings import WorkerSettings
from caravan_engine.host.placement import WorkerPorts
from caravan_engine.host.served_model import WorkerOrder
from caravan_engine.host.worker_log import WorkerLog
from caravan_engine.host.worker_process import WorkerProcess

# Of no use to workers, and theirs is the process that runs native code on clients' input.
_SECRET_VARIABLES = ("CARAVAN_API_KEY",)


class WorkerLauncher:
    """Starts workers of one host.

    Args:
        settings: the engine's settings.
        ports: where workers listen.
        log_sink: takes the workers' structured log lines.
        on_start: is told the model of each started process.
    """

    def __init__(
        self,
        settings: EngineSettings,
        ports: WorkerPorts,
        *,
        log_sink: Callable[[str], None],
        on_start: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._ports = ports
        self._log_sink = log_sink
        self._on_start = on_start

    async def launch(self, order: WorkerOrder, worker_id: str) -> WorkerProcess:
        """Starts the worker of `order`.

        Raises:
            OSError: the program can't be started.
            NoFreePortError: no port is left.
        """
        label = f"{order.model}#{order.replica_index}"
        settings = self._worker_settings(order, worker_id, self._ports.take(label))
        process = await WorkerProcess.start(
            # The label is for whoever looks at the list of processes.
            (sys.executable, "-P", "-m", "caravan_engine.worker", label),
            settings.to_line(),
            log=WorkerLog(label, self._log_sink),
            environment=_worker_environment(os.environ),
        )
        self._on_start(order.model)
        return process

    def _worker_settings(self, order: WorkerOrder, worker_id: str, port: int) -> WorkerSettings:
        return WorkerSettings(
            worker_id=worker_id,
            model=order.model,
            model_path=order.path,
            model_digest=order.digest,
            replica_index=order.replica_index,
            address=f"{self._settings.workers.listen_host}:{port}",
            home=self._settings.home,
            drain_timeout_s=self._settings.workers.drain_timeout_s,
            log_level=self._settings.log.level,
            context=self._settings.context,
            queue=self._settings.queue,
            chat=self._settings.chat,
        )


def _worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in environment.items() if name not in _SECRET_VARIABLES}
    return {**kept, "GGML_NO_BACKTRACE": "1"}
