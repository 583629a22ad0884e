"""`python -m caravan_engine.worker`: started by the engine host, never by hand.

Settings come as one line on standard input, whose end is the order to end. Control events go to
standard output, log lines to standard error.
"""

import logging
from functools import partial

from caravan_engine.control.settings import WorkerSettings
from caravan_engine.worker.app import WorkerApp
from caravan_engine.worker.host_pipe import HostPipe, leave, read_settings_line, watch_stdin
from caravan_obskit.logging import configure_logging
from caravan_servicekit.process import run_service

_HOST_GONE, _FATAL = 0, 70
_log = logging.getLogger("caravan_engine.worker")


def main() -> int:
    """Runs the worker and returns the exit status."""
    host = HostPipe.over_stdout(on_host_gone=partial(leave, _HOST_GONE))
    settings = WorkerSettings.from_line(read_settings_line())
    configure_logging(f"engine/{settings.model}#{settings.replica_index}", level=settings.log_level)
    watch_stdin(partial(leave, _HOST_GONE))

    def end_at_once(error: BaseException) -> None:
        host.say_failed(error)
        leave(_FATAL)

    return run_service(WorkerApp(settings, host, end_at_once))


if __name__ == "__main__":
    # Not sys.exit: a thread may still be inside native code, loading a model.
    leave(main())
