"""How the numbers of workers are shown: as rows of a table, and as lines for a log."""

from datetime import datetime

from caravan_client.cli.quantities import share_text
from caravan_client.resources import WorkersReport, WorkerStats

NUMBER_COLUMNS = (
    *("WORKER", "RUNNING", "WAITING", "PARKED", "CELLS", "HIGHEST"),
    *("PAGES", "HITS", "TOKENS/S"),
)


def number_row(worker: WorkerStats) -> tuple[str, ...]:
    """A worker as a row of a table."""
    memory = worker.memory
    paused = f" ({worker.num_paused} paused)" if worker.num_paused else ""
    return (
        f"{worker.model}/{worker.replica}",
        f"{worker.num_running}/{worker.num_seats}{paused}",
        waiting_text(worker),
        str(worker.num_parked),
        f"{memory.num_running_cells + memory.num_idle_cells}/{memory.num_cells}",
        str(memory.highest_used_cell),
        _pages_text(worker),
        share_text(worker.cache_hit_rate),
        f"{worker.tokens_per_s:.1f}",
    )


def number_line(worker: WorkerStats, now: datetime) -> str:
    """A worker in one line."""
    memory = worker.memory
    return (
        f"{now:%H:%M:%S} {worker.model}/{worker.replica}"
        f" running {worker.num_running}/{worker.num_seats}, waiting {waiting_text(worker)},"
        f" parked {worker.num_parked}, cells {memory.num_running_cells}+{memory.num_idle_cells}"
        f"/{memory.num_cells} up to {memory.highest_used_cell},"
        f" pages {memory.num_cell_pages} in cells, {memory.num_host_pages} in host memory,"
        f" {memory.num_disk_pages} on disk, hits {share_text(worker.cache_hit_rate) or '-'},"
        f" {worker.tokens_per_s:.1f} tokens/s"
    )


def waiting_text(worker: WorkerStats) -> str:
    """How many wait, and with which priorities: `3 (1 at 50, 2 at 10)`."""
    if not worker.num_waiting:
        return "0"
    parts = (f"{num} at {at}" for at, num in sorted(worker.waiting_by_priority.items())[::-1])
    return f"{worker.num_waiting} ({', '.join(parts)})"


def missing_text(report: WorkersReport) -> str:
    """Whose numbers are missing; nothing when none are."""
    hosts = ", ".join(report.missing_hosts)
    return f"no numbers from {hosts}" if hosts else ""


def _pages_text(worker: WorkerStats) -> str:
    """Where pages lie: `3 cells, 7 host, 9 disk`."""
    memory = worker.memory
    text = f"{memory.num_cell_pages} cells, {memory.num_host_pages} host"
    has_disk = memory.disk_budget_bytes or memory.num_disk_pages
    return f"{text}, {memory.num_disk_pages} disk" if has_disk else text
