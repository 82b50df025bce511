"""Select the passages that become prompts, by a rule that does not depend on the model.

Length is counted in UTF-8 bytes, or in tokens of a *named* tokenizer (the paper's rule). If each
model's own tokenizer counted, models would get different texts, and their profiles could not be
compared.

The random selection gives every source row a number, the first eight bytes of BLAKE2b keyed by the
seed, and takes the rows with the smallest numbers. Over seeds, every subset of the eligible
passages is equally likely; for one seed, the selection is the same on any machine and Python. It
takes one pass and memory for the chosen passages. Prompts are sorted by that number, so the first n
of N prompts are the random sample of size n, and an analysis of fewer prompts equals a smaller
capture. Passages that satisfy two length rules have the same order under both.
"""

import contextlib
import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Final, Literal

from lpp.capture.corpus.passages import Corpus, Passage
from lpp.store.errors import ErrorKind, InputError
from lpp.store.progress import SILENT, Progress

_MOST_COUNTED: Final = 100_000
"""Most texts that are read only to say how many there are: some seconds."""

CountTokens = Callable[[str], int]


SEED: Final = 42
"""Of a draw, where none is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The rule. The constructor raises InputError for invalid values, and names the option."""

    prompts: int | None = 100
    """Most passages; None: all. If fewer are long enough, those are taken."""
    unasked: bool = False
    """Whether `prompts` is the default: then a line says how many texts it leaves."""
    min_bytes: int = 512
    """Minimal length in UTF-8 bytes, in addition to `min_tokens`: set 0 for the paper's rule."""
    min_tokens: int | None = None
    count_with: str | None = None
    """Name of the tokenizer that counts `min_tokens`."""
    select: Literal["first", "random"] = "first"
    seed: int = SEED

    def __post_init__(self) -> None:
        if self.prompts is not None and self.prompts < 1:
            raise InputError(f"--prompts {self.prompts}: at least one is needed.")
        if self.min_bytes < 0:
            raise InputError(f"--min-bytes {self.min_bytes}: a length cannot be negative.")
        if self.min_tokens is not None and self.min_tokens < 1:
            raise InputError(f"--min-tokens {self.min_tokens}: at least one, or leave it out.")
        if (self.min_tokens is None) != (self.count_with is None):
            raise InputError(
                "--min-tokens and --count-with go together: a length in tokens means nothing "
                "without the tokenizer that counts. Such as: "
                "--min-tokens 128 --count-with Qwen/Qwen2.5-0.5B-Instruct"
            )
        if not 0 <= self.seed < 2**64:
            raise InputError(f"--seed {self.seed}: from 0 to 2^64 - 1.")

    def document(self) -> dict[str, str | int | None]:
        """For the plan. Without the seed if nothing is drawn, so that the seed changes no plan."""
        fields = asdict(self)
        del fields["unasked"]  # `prompts` is the number taken (`prepare`)
        if self.select == "first":
            del fields["seed"]
        return fields


def select(
    corpus: Corpus,
    selection: Selection,
    count_tokens: CountTokens | None = None,
    progress: Progress = SILENT,
) -> list[Passage]:
    """At most `selection.prompts` passages, in the order of their prompts: corpus order for
    `first`, order of the draws for `random`. The first n of them are the selection of n.

    count_tokens: length of a text in tokens of `selection.count_with`; needed with `min_tokens`.
    progress: gets a line if there are fewer than the user asked for, or more than the default.

    Raises InputError if no passage is long enough.
    """
    if selection.min_tokens is not None and count_tokens is None:
        raise TypeError("min_tokens needs count_tokens")
    tally = _Tally(selection, count_tokens)
    if selection.select == "first":
        chosen = list(islice(filter(tally.long_enough, corpus.passages), selection.prompts))
    else:
        chosen = _draw(corpus.passages, selection, tally)
    if not chosen:
        raise InputError(tally.none(corpus), kind=ErrorKind.INCOMPLETE)
    if selection.unasked and len(chosen) == selection.prompts:
        there = _count(corpus, selection.min_bytes)
        if there is None or there > len(chosen):
            of = f"more than {_MOST_COUNTED:,}" if there is None else f"{there:,}"
            progress.warn(
                f"Corpus {corpus.name}: the default takes {len(chosen)} of {of} texts; --prompts "
                "all takes all."
            )
    elif len(chosen) < (selection.prompts or 0) and (
        not selection.unasked or tally.enough < tally.seen
    ):
        progress.warn(tally.fewer(corpus))
    return chosen


def _count(corpus: Corpus, min_bytes: int) -> int | None:
    """Number of texts that are long enough in bytes; None: the corpus has more than `_MOST_COUNTED`
    texts, or a later row that cannot be read.
    """
    count, read = 0, 0
    with corpus.refused.unchanged(), contextlib.suppress(InputError):
        for read, passage in enumerate(corpus.passages, 1):
            if read > _MOST_COUNTED:
                return None
            count += len(passage.text.encode("utf-8")) >= min_bytes
        return count
    return None


def _draw(passages: Iterable[Passage], selection: Selection, tally: "_Tally") -> list[Passage]:
    """Passages with the smallest draws, in the order of the draws.

    Counting tokens is the expensive step, so passages that cannot enter the sample are not counted.
    If the sample stays too small, all of them have been counted.
    """
    heap: list[tuple[int, int, Passage]] = []  # (-draw, -row, passage): the largest draw on top
    for key, passage in _drawn(passages, selection.seed):
        if selection.prompts is None or len(heap) < selection.prompts:
            if tally.long_enough(passage):
                heapq.heappush(heap, (*key, passage))
        elif key > heap[0][:2] and tally.long_enough(passage):
            heapq.heapreplace(heap, (*key, passage))
    return [passage for _, _, passage in sorted(heap, key=lambda entry: entry[:2], reverse=True)]


def _drawn(passages: Iterable[Passage], seed: int) -> Iterator[tuple[tuple[int, int], Passage]]:
    key = seed.to_bytes(8, "little")
    for passage in passages:
        yield (-draw(passage.source_row, key), -passage.source_row), passage


def draw(source_row: int, key: bytes) -> int:
    """The row's number under a key: 64 bits of BLAKE2b over the row as eight little-endian bytes.

    >>> draw(0, (42).to_bytes(8, "little")) != draw(1, (42).to_bytes(8, "little"))
    True
    """
    row = source_row.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(row, digest_size=8, key=key).digest(), "little")


class _Tally:
    """Applies the length rule, and counts passages for the message if few pass."""

    def __init__(self, selection: Selection, count_tokens: CountTokens | None) -> None:
        self._selection, self._count_tokens = selection, count_tokens
        self.seen = self.enough_bytes = self.enough = 0

    def long_enough(self, passage: Passage) -> bool:
        self.seen += 1
        if len(passage.text.encode("utf-8")) < self._selection.min_bytes:
            return False
        self.enough_bytes += 1
        least, count = self._selection.min_tokens, self._count_tokens
        if least is not None and count is not None and count(passage.text) < least:
            return False
        self.enough += 1
        return True

    def none(self, corpus: Corpus) -> str:
        """Message: no text passes, and which options would take them."""
        aside = corpus.refused.summary()
        more = f" Set aside: {aside}." * bool(aside)
        options = ["--min-bytes 0"] * (self.enough_bytes < self.seen)
        if self._selection.min_tokens is not None:
            options.append("--min-tokens 1")
        return (
            f"Corpus {corpus.name}: {self._steps()}.{more} Repeat with {' '.join(options)}, or "
            "give another corpus."
        )

    def fewer(self, corpus: Corpus) -> str:
        """Line: all texts that pass are taken, fewer than were asked for."""
        return (
            f"Corpus {corpus.name}: {self._steps()}: all {self.enough} are taken, fewer than "
            f"--prompts {self._selection.prompts}."
        )

    def _steps(self) -> str:
        """How many texts pass each step of the rule."""
        wanted = self._selection
        least = f"{self.enough_bytes} of at least {wanted.min_bytes} bytes"
        steps = [least] * (wanted.min_bytes > 0)
        if wanted.min_tokens is not None:
            steps.append(f"{self.enough} of {wanted.min_tokens} tokens of {wanted.count_with}")
        of = f" ({', '.join(steps)})" * bool(steps)
        return f"{self.enough} of {self.seen} texts are long enough{of}"
