"""Baselines that know little, and two that know everything: reference points for probes' scores.

Each takes an item, as in the files, and a random source, and returns the response that a model
would write.
"""

import random
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from lpp.capture.synthetic.ambiguous import read_scenes
from lpp.capture.synthetic.items import Probe, read_items
from lpp.capture.synthetic.patterns import FAMILIES
from lpp.capture.synthetic.scoring import (
    ProbeVerdict,
    line_of,
    score_ambiguous_generate,
    score_pattern,
)

Item = Mapping[str, Any]
Answerer = Callable[[Item, random.Random], str]

SCENES = read_scenes()
INDUCTION = "copies what followed the last two symbols before"
"""Follows the rule of two families without knowing it: scores are compared with it."""

DRAWS = 100
"""Passes over the items, for baselines that choose at random."""


def _line(ambiguous: bool, answer: str) -> str:
    return line_of(ProbeVerdict(ambiguous=ambiguous, answer=answer))


def _by_hint(item: Item) -> str:
    """The option that the hint supports, from the scene as written."""
    scene = SCENES[item["scene"]]
    return "A" if (item["hint"] == scene.hint_a) == (item["option_a"] == scene.a) else "B"


def _by_prefix(item: Item, rng: random.Random) -> str:
    """The right option if the prefix has one reading; otherwise a random one."""
    scene = SCENES[item["scene"]]
    if item["prefix"] == scene.prefix:
        return rng.choice("AB")
    return "A" if (item["prefix"] == scene.plain_a) == (item["option_a"] == scene.a) else "B"


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def _by_overlap(item: Item, rng: random.Random) -> str:
    """The option that shares more words with the hint."""
    shared = [len(_words(item["hint"]) & _words(item[o])) for o in ("option_a", "option_b")]
    return rng.choice("AB") if shared[0] == shared[1] else "AB"[shared[1] > shared[0]]


def _by_length(item: Item) -> bool:
    """The best threshold on the length of the prefix, fitted on the answers themselves."""
    return len(item["prefix"]) <= _best_cut()


@cache
def _best_cut() -> int:
    items = read_items("ar")["test"]
    hits = {
        cut: sum((len(item["prefix"]) <= cut) == item["ambiguous"] for item in items)
        for cut in range(10, 90)
    }
    return max(hits, key=lambda cut: hits[cut])


AMBIGUOUS: dict[str, Answerer] = {
    "reads prefix and hint": lambda item, rng: _line(item["ambiguous"], _by_hint(item)),
    "reads hints, always `AMBIGUOUS`": lambda item, rng: _line(True, _by_hint(item)),
    "reads prefixes only": lambda item, rng: _line(item["ambiguous"], _by_prefix(item, rng)),
    "always `A`, always `AMBIGUOUS`": lambda item, rng: _line(True, "A"),
    "always `B`, always `NOT_AMBIGUOUS`": lambda item, rng: _line(False, "B"),
    "random line": lambda item, rng: _line(rng.random() < 0.5, rng.choice("AB")),
    "option nearer to the hint in words": lambda item, rng: _line(True, _by_overlap(item, rng)),
    "longer option, shorter prefixes `AMBIGUOUS`": lambda item, rng: _line(
        _by_length(item), "AB"[len(item["option_b"]) > len(item["option_a"])]
    ),
}


def _by_induction(shown: str, length: int = 3) -> str:
    """What followed the last two symbols when they last occurred: copying, not counting."""
    text = shown
    for _ in range(length):
        place = text.rfind(text[-2:], 0, len(text) - 1)
        text += text[place + 2] if place >= 0 else text[-1]
    return text[-length:]


PATTERNS: dict[str, Answerer] = {
    "follows the rule": lambda item, rng: next(FAMILIES[item["family"]](item["shown"])),
    "copies the first three symbols": lambda item, rng: item["shown"][:3],
    "repeats the last three symbols": lambda item, rng: item["shown"][-3:],
    "repeats the last symbol": lambda item, rng: item["shown"][-1] * 3,
    "random symbols of those shown": lambda item, rng: "".join(rng.choices(item["shown"], k=3)),
    "always `AAA`": lambda item, rng: "AAA",
    INDUCTION: lambda item, rng: _by_induction(item["shown"]),
}


def scores_of(probe: Probe, name: str) -> dict[str, float]:
    """Mean scores of a baseline over the test items."""
    score: Any = score_ambiguous_generate if probe == "ar" else score_pattern
    answer = (AMBIGUOUS if probe == "ar" else PATTERNS)[name]
    rng = random.Random(0)
    values: dict[str, list[float]] = {}
    items = read_items(probe)["test"]
    for _ in range(DRAWS if draws_lots(name) else 1):
        for item in items:
            for metric, value in score(item, [answer(item, rng)]).items():
                values.setdefault(metric, []).append(value)
    return {metric: sum(of) / len(of) for metric, of in values.items()}


def draws_lots(name: str) -> bool:
    """Whether a baseline's score is an average over random draws."""
    return name.startswith(("random", "reads prefixes", "option nearer"))
