"""Items of the ambiguous reasoning probe: does a model see two readings, and does it use a hint?

After the probe of the same name in arXiv 2605.30018, with three differences. Half of the prefixes
have one reading only, so calling every prefix ambiguous is right half of the time. Each scene
appears with a hint for each reading, so preferring one reading does not help. Only the hint decides
which option is right: its position, its wording and the prefix do not.

The scenes are written by hand (`tasks/ar_scenes.toml`); a seed assigns their options and hints.
"""

import random
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Choice = Literal["A", "B"]
Reading = Literal["a", "b"]

SCENES: Final = Path(__file__).parent / "tasks" / "ar_scenes.toml"

CELLS: Final[tuple[tuple[bool, Reading], ...]] = (
    (True, "a"),
    (False, "b"),
    (True, "b"),
    (False, "a"),
)
"""The four items of a scene: (is the prefix ambiguous?, the reading that the hint supports)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """An ambiguous sentence, its two readings, and for each a hint and an unambiguous sentence."""

    kind: str
    use: Literal["test", "shot"]
    prefix: str
    a: str
    b: str
    hint_a: str
    hint_b: str
    plain_a: str
    plain_b: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AmbiguousItem:
    """One question of the probe."""

    scene: int
    """Number of the scene: items of one scene are not independent."""
    kind: str
    prefix: str
    option_a: str
    option_b: str
    hint: str
    ambiguous: bool
    """Whether `prefix`, taken alone, has two readings."""
    answer: Choice
    """The option that the hint supports."""


def read_scenes() -> list[Scene]:
    """The scenes, in the order of the file."""
    return [Scene(**table) for table in tomllib.loads(SCENES.read_text("utf-8"))["scene"]]


def ambiguous_items(seed: int) -> tuple[list[AmbiguousItem], list[AmbiguousItem]]:
    """(shots, test items) of the seed.

    Test: four items of each scene, one for each of `CELLS`. Any four in a row have each cell once
    and each answer twice, once with an ambiguous prefix, so the first n items are balanced too.
    Shots: two items of each of the other scenes, one with an ambiguous prefix, one without.
    """
    rng = random.Random(seed)
    scenes = list(enumerate(read_scenes()))
    test = [numbered for numbered in scenes if numbered[1].use == "test"]
    shots = [numbered for numbered in scenes if numbered[1].use == "shot"]
    rng.shuffle(test)
    rng.shuffle(shots)
    return list(_deal_shots(shots, rng)), list(_deal_test(test, rng))


def _deal_test(scenes: Sequence[tuple[int, Scene]], rng: random.Random) -> Iterator[AmbiguousItem]:
    """Four rounds over the scenes, so that the items of a scene are far apart."""
    # One order of options for both hints of a prefix: A is right for the one, B for the other.
    # The scenes of a block share it, so that in each turn A is right as often as B.
    swapped = {
        (start, ambiguous): rng.random() < 0.5
        for start in range(0, len(scenes), len(CELLS))
        for ambiguous in (True, False)
    }
    for turn in range(len(CELLS)):
        for start in range(0, len(scenes), len(CELLS)):
            block = []
            for index, (number, scene) in enumerate(scenes[start : start + len(CELLS)]):
                ambiguous, reading = CELLS[(index + turn) % len(CELLS)]
                swap = swapped[start, ambiguous]
                block.append(_item(number, scene, ambiguous, reading, swap=swap))
            rng.shuffle(block)
            yield from block


def _deal_shots(scenes: Sequence[tuple[int, Scene]], rng: random.Random) -> Iterator[AmbiguousItem]:
    """Pairs of one scene; which status and which option go together changes from pair to pair."""
    for turn, (number, scene) in enumerate(scenes):
        readings: list[Reading] = ["a", "b"]
        rng.shuffle(readings)
        statuses = [True, False] if rng.random() < 0.5 else [False, True]
        for status, reading in zip(statuses, readings, strict=True):
            answer: Choice = "A" if status == (turn % 2 == 0) else "B"
            yield _item(number, scene, status, reading, swap=(reading == "a") != (answer == "A"))


def _item(
    number: int, scene: Scene, ambiguous: bool, reading: Reading, *, swap: bool
) -> AmbiguousItem:
    options = (scene.b, scene.a) if swap else (scene.a, scene.b)
    plain = scene.plain_a if reading == "a" else scene.plain_b
    return AmbiguousItem(
        scene=number,
        kind=scene.kind,
        prefix=scene.prefix if ambiguous else plain,
        option_a=options[0],
        option_b=options[1],
        hint=scene.hint_a if reading == "a" else scene.hint_b,
        ambiguous=ambiguous,
        answer="A" if (reading == "a") != swap else "B",
    )
