"""What moving a page costs beside computing it, measured as it happens."""

from dataclasses import dataclass

from caravan_engine.domain.kv_numbers import MoveTimes

_SMOOTHING = 0.1
_MOST_GROWTH = 3.0
_SLOWDOWN_PER_CELL = 1.8e-5
_STEPS_TO_WIN_BACK = 16
_FORGETTING = 0.01


@dataclass(slots=True)
class Pace:
    """Seconds for each token, smoothed; a guess until something was measured."""

    s_per_token: float
    is_measured: bool = False

    def observe(self, seconds: float, num_tokens: int) -> None:
        """Takes a measurement; one that is far too long was interrupted by something else."""
        if num_tokens <= 0 or seconds <= 0:
            return
        measured = min(seconds / num_tokens, _MOST_GROWTH * self.s_per_token)
        if self.is_measured:
            self.s_per_token += _SMOOTHING * (measured - self.s_per_token)
        else:
            self.s_per_token, self.is_measured = measured, True

    def forget(self) -> None:
        """Takes it to be a little faster: what is never done is never measured again."""
        self.s_per_token *= 1 - _FORGETTING


class PageCosts:
    """Decides whether to restore or to compute, and whether a page pays for its cells.

    Owned by the decode thread. The guesses at the start are those of a model of 0.5B on two cores.

    Args:
        learns: Whether to measure; otherwise the guesses stay, and with them every decision.
    """

    def __init__(self, *, learns: bool = True) -> None:
        self._learns = learns
        self.computing = Pace(4e-3)
        self.exporting = Pace(2e-6)
        self.importing = Pace(2e-6)
        self.reading = Pace(2e-5)  # from disk, with checksum and decompression
        self._step_s = 0.08

    def stepped(self, seconds: float, num_tokens: int, *, is_prompt: bool) -> None:
        """Takes a step's time; steps that hold prompts tell what computing costs."""
        if not self._learns:
            return
        self._step_s += _SMOOTHING * (seconds - self._step_s)
        if is_prompt:
            self.computing.observe(seconds, num_tokens)

    def moved(self, times: MoveTimes) -> None:
        """Takes what moving pages took."""
        if not self._learns:
            return
        self.exporting.observe(times.export_s, times.exported_tokens)
        self.importing.observe(times.import_s, times.imported_tokens)

    def read(self, seconds: float, num_tokens: int) -> None:
        """Takes what reading a page from disk took."""
        if self._learns:
            self.reading.observe(seconds, num_tokens)

    def pays_to_import(self, num_wanted: int, num_imported: int, *, from_disk: bool) -> bool:
        """Returns whether to restore `num_imported` tokens of which some are wanted.

        Each page that is left on disk makes reading seem a little faster, so that a disk that was
        busy for a time is tried again.
        """
        pace = self.importing.s_per_token + (self.reading.s_per_token if from_disk else 0.0)
        pays = num_imported * pace < num_wanted * self.computing.s_per_token
        if from_disk and self._learns and not pays:
            self.reading.forget()
        return pays

    def pays_to_compact(self, num_unused: int, num_moved: int) -> bool:
        """Returns whether moving so many tokens is won back within some steps."""
        moving_s = num_moved * (self.exporting.s_per_token + self.importing.s_per_token)
        return num_unused * _SLOWDOWN_PER_CELL * self._step_s * _STEPS_TO_WIN_BACK > moving_s

    def pays_to_stay(self, num_tokens: int, hits_per_s: float, *, has_image: bool) -> bool:
        """Returns whether an idle page saves more than its cells cost all other steps.

        Each use of a page in the cells saves restoring it (or computing it, without an image). But
        on a CPU each step gets slower by 0.0018 % for each cell below the highest used one
        (measured: 80 ms with 2,048 cells, 122 with 30,208).
        """
        pace = self.importing if has_image else self.computing
        saved_per_s = hits_per_s * num_tokens * pace.s_per_token
        lost_per_s = num_tokens * _SLOWDOWN_PER_CELL  # as if steps followed each other all the time
        return saved_per_s > lost_per_s
