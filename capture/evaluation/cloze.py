"""The packaged task `pydoc_cloze`: which of four words was left out of a sentence?

The sentences are those of the built-in corpus, so the task needs no download. The source of the
scores holds a hash of the items.

The four words have the same number of letters and similar frequencies in the reference. In each
block of sixteen items the right answer is once at every place among the four and once at every rank
by frequency, so neither its place, nor its length, nor its frequency tells it.
"""

import hashlib
import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

from lpp.capture.corpus.pydoc import articles, sentences

PACKAGED_TASKS: Final = Path(__file__).parent / "packaged_tasks"
"""Tasks that come with this package, a YAML file each, known by their names."""

N_ITEMS: Final = 240
CHOICES: Final = 4
RATIO: Final = 2.0
"""Most that the frequencies of two choices of an item may differ by."""

WORDS: Final = (10, 40)
"""Words of a sentence, at least and at most."""

_WORD: Final = re.compile(r"(?<= )[a-z]{4,}(?=[ ,.;:])")
_BLANK: Final = "____"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClozeItem:
    """One question."""

    topic: str
    """Article of the sentence."""
    text: str
    """The sentence with a blank."""
    before: str
    """Text before the blank."""
    choices: tuple[str, ...]
    frequencies: tuple[int, ...]
    """How often each choice occurs in the reference."""
    gold: int
    """Index of the word that was left out."""


def cloze_items(articles: Mapping[str, str], limit: int = N_ITEMS) -> list[ClozeItem]:
    """Up to `limit` items of `articles` (text by topic), one of a sentence at most, in an order
    that depends on the sentences alone; the first n are those of limit n.
    """
    prose = [
        (topic, text)
        for topic, text in sorted(set(sentences(articles)), key=lambda pair: _draw(pair[1]))
        if WORDS[0] <= len(text.split()) <= WORDS[1]
    ]
    counts = Counter(word for _, text in set(sentences(articles)) for word in _WORD.findall(text))
    by_length: dict[int, list[str]] = {}
    for word in sorted(counts, key=lambda word: (counts[word], word)):
        by_length.setdefault(len(word), []).append(word)
    cells, items = _cells(), list[ClozeItem]()
    cell = next(cells)
    for topic, text in prose:
        if len(items) == limit:
            break
        item = _item(topic, text, counts, by_length, cell)
        if item is not None:
            items.append(item)
            cell = next(cells)
    return items


def baselines(items: Sequence[ClozeItem]) -> dict[str, float]:
    """Accuracy of rules that do not read the sentence; of equals the first is taken."""
    chosen = {
        "first": [0 for _ in items],
        "longest": [_largest([len(word) for word in item.choices]) for item in items],
        "most frequent": [_largest(item.frequencies) for item in items],
    }
    return {
        name: sum(n == item.gold for n, item in zip(choices, items, strict=True)) / len(items)
        for name, choices in chosen.items()
    }


def _largest(values: Sequence[int]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def cloze_dataset(**_: Any) -> Any:
    """`custom_dataset` of the task; lm-eval passes on its metadata."""
    import datasets

    items = [asdict(item) for item in cloze_items(articles())]
    return {"test": datasets.Dataset.from_list(items)}


def _item(
    topic: str,
    text: str,
    counts: Mapping[str, int],
    by_length: Mapping[int, Sequence[str]],
    cell: tuple[int, int],
) -> ClozeItem | None:
    """An item with `rank` choices rarer than the right answer, which is at `position`; None if no
    word of the sentence has such neighbours. cell: (rank, position).
    """
    rank, position = cell
    rng = random.Random(text)
    spots = list(_WORD.finditer(text))[1:]  # something must stand before the blank
    rng.shuffle(spots)
    for spot in spots:
        word = spot.group()
        if len(re.findall(rf"\b{word}", text)) > 1:
            continue
        pool = [
            other
            for other in by_length[len(word)]
            if other not in text.lower() and 1 / RATIO <= counts[other] / counts[word] <= RATIO
        ]
        rarer = [other for other in pool if counts[other] < counts[word]]
        oftener = [other for other in pool if counts[other] > counts[word]]
        if counts[word] < 3 or len(rarer) < rank or len(oftener) < CHOICES - 1 - rank:
            continue
        others = rng.sample(rarer, rank) + rng.sample(oftener, CHOICES - 1 - rank)
        rng.shuffle(others)
        choices = (*others[:position], word, *others[position:])
        return ClozeItem(
            topic=topic,
            text=f"{text[: spot.start()]}{_BLANK}{text[spot.end() :]}",
            before=text[: spot.start()].rstrip(),
            choices=choices,
            frequencies=tuple(counts[choice] for choice in choices),
            gold=position,
        )
    return None


def _cells() -> Iterator[tuple[int, int]]:
    """(rank by frequency, place) of one right answer after the other: each pair once in a block."""
    rng = random.Random(0)
    block = list(product(range(CHOICES), range(CHOICES)))
    while True:
        rng.shuffle(block)
        yield from block


def _draw(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def main() -> None:
    """Print the number of items and the baselines, with their standard errors."""
    items = cloze_items(articles())
    print(f"{len(items)} items of {len({item.topic for item in items})} topics")
    for name, accuracy in baselines(items).items():
        error = math.sqrt(accuracy * (1 - accuracy) / (len(items) - 1))
        print(f"{name:<16}{accuracy:.3f} +- {error:.3f}")


if __name__ == "__main__":
    main()
