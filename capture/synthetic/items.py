"""The items of the probes as files, and as the data sets that lm-eval asks for.

The files beside the tasks hold the items of seed 0, so that everybody scores the same items.
Another seed assigns the scenes of the ambiguous probe anew and draws other sequences, which no
training text can contain: `lm_eval --metadata '{"item_seed": 7}'`.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal

from lpp.capture.synthetic.ambiguous import AmbiguousItem, ambiguous_items
from lpp.capture.synthetic.patterns import PatternItem, pattern_items

Probe = Literal["ar", "spc"]

TASKS: Final = Path(__file__).parent / "tasks"
"""For `lm_eval --include_path`."""

ITEM_SEED: Final = 0
"""Seed of the files."""


def probe_items(probe: Probe, seed: int) -> dict[str, list[dict[str, Any]]]:
    """{"shots": solved items, "test": questions} of a seed."""
    shots, test = ambiguous_items(seed) if probe == "ar" else pattern_items(seed)
    return {"shots": _records(shots), "test": _records(test)}


def _records(items: Iterable[AmbiguousItem] | Iterable[PatternItem]) -> list[dict[str, Any]]:
    return [asdict(item) for item in items]


def item_files() -> dict[str, str]:
    """Name and text of every file of items: a JSON object a line.

    `python -m lpp.capture.synthetic.items` writes them, after a change to the scenes or the rules.
    """
    return {
        f"{probe}_{split}.jsonl": "".join(
            json.dumps(item, ensure_ascii=False) + "\n" for item in items
        )
        for probe in ("ar", "spc")
        for split, items in probe_items(probe, ITEM_SEED).items()
    }


def read_items(probe: Probe) -> dict[str, list[dict[str, Any]]]:
    """The items of the files, as `probe_items` gives them."""
    return {
        split: [
            json.loads(line)
            for line in (TASKS / f"{probe}_{split}.jsonl").read_text("utf-8").splitlines()
        ]
        for split in ("shots", "test")
    }


def ambiguous_dataset(*, item_seed: int = ITEM_SEED, **_: Any) -> Any:
    """`custom_dataset` of lpp_ar; lm-eval passes on all its metadata."""
    return _dataset("ar", item_seed)


def pattern_dataset(*, item_seed: int = ITEM_SEED, **_: Any) -> Any:
    """`custom_dataset` of lpp_spc."""
    return _dataset("spc", item_seed)


def _dataset(probe: Probe, seed: int) -> Any:
    import datasets

    splits = read_items(probe) if seed == ITEM_SEED else probe_items(probe, seed)
    return {name: datasets.Dataset.from_list(items) for name, items in splits.items()}


if __name__ == "__main__":
    for name, text in item_files().items():
        (TASKS / name).write_text(text, "utf-8")
