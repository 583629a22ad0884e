"""What the domain and the decode thread need from outside, one capability per Protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from caravan_engine.domain.events import FinishReason
from caravan_engine.domain.paging.page_image import PageImage, PageInfo
from caravan_engine.domain.sampling.logprobs import Logprobs
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_rpckit.errors import CaravanError

if TYPE_CHECKING:
    from caravan_engine.domain.sequence import Sequence as TokenSequence
    from caravan_engine.domain.sequence import SequenceGroup
    from caravan_engine.domain.step import StepPlan


class BackendFailureError(Exception):
    """A batch was not computed; memory of its sequences is in an unknown state."""

    def __init__(self, code: int) -> None:
        super().__init__(f"decode returned {code}")
        self.code = code


class Vocabulary(Protocol):
    """The model's tokens. Immutable, usable from any thread."""

    @property
    def size(self) -> int:
        """Number of tokens; ids are 0 to size - 1."""
        ...

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens by which the model says that its text is over."""
        ...

    @property
    def control_tokens(self) -> frozenset[int]:
        """Tokens that a client may not name in a tokenized input."""
        ...

    @property
    def pieces(self) -> Sequence[bytes]:
        """The bytes of each token; empty for control tokens. May end inside a character."""
        ...

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Cuts text into tokens.

        Args:
            text: The text.
            add_special: Whether to begin (and end) it as the model expects, with BOS for example.
            parse_special: Whether special tokens written in `text` count as such. Only for text
                that no client wrote.
        """
        ...


class CandidateFilter(Protocol):
    """Narrows a row of logits down to the tokens that take part in the draw.

    Built on any thread; `narrow` only runs on the decode thread.
    """

    def narrow(
        self, logits: npt.NDArray[np.float32], *, excludes_top: bool
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """Returns ids and logits of the candidates, best first, temperature applied.

        At least one. The arrays are valid until the next call of any filter.

        Args:
            logits: # (vocabulary size,).
            excludes_top: Whether XTC drops the top choices this time.
        """
        ...


class Backend(Protocol):
    """Computes steps. Everything but `vocabulary` and `candidate_filter` belongs to one thread."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's tokens."""
        ...

    def candidate_filter(self, options: SamplingOptions) -> CandidateFilter | None:
        """Returns the filter for `options`; None when they are greedy."""
        ...

    def release(self, seq_id: int, start: int, end: int | None) -> None:
        """Forgets positions of a sequence, from `start` up to `end` (None: all that follow)."""
        ...

    def share(self, source: int, target: int, start: int, end: int) -> None:
        """Lets a sequence have positions of another one too, without a copy.

        They stay until the last of them forgets them.
        """
        ...

    def export_page(self, seq_id: int, start: int, end: int) -> memoryview:
        """Returns a writable copy of what is in the cells of positions [start, end).

        Of a sequence that can't be cut all is copied.
        """
        ...

    def import_page(self, image: PageImage, seq_id: int, start: int, end: int) -> bool:
        """Puts positions [start, end) of an exported page into the lowest free cells.

        Returns:
            Whether it was possible; otherwise nothing changed.
        """
        ...

    def wipe(self) -> None:
        """Zeroes the memory of all cells; no sequence may have any."""
        ...

    def decode(self, plan: "StepPlan") -> npt.NDArray[np.float32]:
        """Computes a plan's chunks, all or nothing as far as the caller can know.

        Returns:
            # (num_sampling_chunks, vocabulary size): raw logits in the order of the chunks. May be
            written to; valid until the next call.

        Raises:
            BackendFailureError: if the batch was not computed.
        """
        ...

    def embed(self, plan: "StepPlan") -> npt.NDArray[np.float32]:
        """Computes a plan that embeds, under the same conditions as `decode`.

        Returns:
            # (num_tokens, embedding size): the vector of each token in the order of the chunks;
            valid until the next call.

        Raises:
            BackendFailureError: if the batch was not computed.
        """
        ...

    def share_cores(self, *, shares: bool) -> None:
        """Computes with half of its threads from the next step on, or with all of them again."""
        ...

    def close(self) -> None:
        """Frees the model; nothing may be called afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class PageWritten:
    """A page is on disk now."""

    key: bytes


@dataclass(frozen=True, slots=True)
class PageRead:
    """A page was read, checked and decompressed; it took so long, once it was its turn."""

    image: PageImage
    read_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class PageFound:
    """A page is on disk that this worker didn't write; the one before it was found earlier."""

    info: PageInfo


@dataclass(frozen=True, slots=True)
class PageLost:
    """A page isn't on disk: damaged, foreign, displaced by others, or it couldn't be written."""

    key: bytes


DiskNews = PageWritten | PageRead | PageFound | PageLost


class PageDisk(Protocol):
    """The disk tier of one worker's pages.

    Called by the decode thread, which it never lets wait: the work is done by threads of its own,
    and `poll` tells what came of it. Each `write` and `read` gets exactly one answer; a page that
    was written may be reported lost at any later time.
    """

    def write(self, image: PageImage, *, protected: bool, kept: bool = False) -> None:
        """Stores a page; when the budget is spent, others go first, `protected` ones last.

        Args:
            image: The page.
            protected: Whether it goes last.
            kept: Whether the caller keeps the image; else it is zeroed here if the page is
                forgotten meanwhile.
        """
        ...

    def read(self, key: bytes, *, priority: int) -> None:
        """Fetches a page that was reported as written or found; more `priority` is sooner."""
        ...

    def forget(self, keys: Sequence[bytes]) -> None:
        """Overwrites pages with zeros and removes them; gives no answer."""
        ...

    def resize(self, budget_bytes: int) -> None:
        """Changes the budget; what no longer fits is reported lost."""
        ...

    def poll(self) -> Sequence[DiskNews]:
        """Returns what happened since the last call, in order."""
        ...


class IntegrityChecker(Protocol):
    """Looks into a backend's memory. For tests: it copies whole sequences."""

    def check_integrity(self, positions: Mapping[int, Sequence[int]]) -> list[str]:
        """Compares memory with what it should hold.

        Args:
            positions: Those of each sequence id that has any.

        Returns:
            One line per fault: a position without or with several cells, cells of a sequence that
            should have none.
        """
        ...


class SequenceOutput(Protocol):
    """Takes what one sequence generates. Called by the decode thread only."""

    @property
    def num_unread(self) -> int:
        """Tokens that its reader hasn't taken yet."""
        ...

    def append(self, token: int, logprobs: Logprobs | None) -> str | None:
        """Takes the next token; returns the stop string that it completes, if any."""
        ...

    def finish(self, sequence: "TokenSequence", reason: FinishReason) -> None:
        """The sequence ended well: everything held back goes out, then its end."""
        ...


class GroupOutput(Protocol):
    """Takes what happens to a request as a whole. Called by the decode thread only."""

    def start(self, group: "SequenceGroup", cached_tokens: int) -> None:
        """Computation is about to begin."""
        ...

    def complete(self, group: "SequenceGroup") -> None:
        """All sequences ended well; this is the terminal event."""
        ...

    def fail(self, error: CaravanError) -> None:
        """The request ended with `error`, which is the terminal event."""
        ...


class SchedulerObserver(Protocol):
    """Hears what happens, for metrics. Called by the decode thread only."""

    def admitted(self, group: "SequenceGroup", now: float) -> None:
        """A new request got its seats."""
        ...

    def started(self, group: "SequenceGroup", now: float) -> None:
        """Its computation begins; `cached_tokens` of its input were there already."""
        ...

    def parked(self, group: "SequenceGroup", now: float) -> None:
        """A request gave up its seats for a time."""
        ...

    def generated(self, sequence: "TokenSequence", now: float) -> None:
        """A sequence gets a token; its times still say when it got the one before."""
        ...

    def ended(self, group: "SequenceGroup", outcome: str, now: float) -> None:
        """A request is over.

        `outcome` is why its last sequence finished, or an error's reason in lower case.
        """
        ...
