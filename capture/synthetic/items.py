"""The items of the packaged tasks: files beside the tasks, so that everybody scores the same ones.

`ar_*`: the ambiguous reasoning probe, after arXiv 2605.30018 with three differences. Half of the
prefixes have one reading only, so calling every prefix ambiguous is right half of the time. Each
scene appears with a hint for each reading, so preferring one reading does not help. Only the hint
decides which option is right: its position, its wording and the prefix do not.

`spc_*`: symbolic pattern completion, after the same paper: five families of rules, three symbols to
give. Every rule of a family that fits a sequence gives the same answer, which is neither the first
nor the last three symbols.

`cloze_test`: which of four words was left out of a sentence of the built-in corpus? The words have
the same number of letters and similar frequencies there. In each block of sixteen items the right
answer is once at every place among the four and once at every rank by frequency.
"""

import json
from pathlib import Path
from typing import Any, Final

TASKS: Final = Path(__file__).parent / "tasks"
"""For `lm_eval --include_path`."""


def read_items(probe: str) -> dict[str, list[dict[str, Any]]]:
    """The items of `ar`, `spc` or `cloze`, by split: `test`, and `shots` where there are some."""
    return {
        path.stem.removeprefix(f"{probe}_"): [*map(json.loads, path.read_bytes().splitlines())]
        for path in sorted(TASKS.glob(f"{probe}_*.jsonl"))
    }


def ambiguous_dataset(**_: Any) -> Any:
    """`custom_dataset` of lpp_ar; lm-eval passes on its metadata."""
    return _dataset("ar")


def pattern_dataset(**_: Any) -> Any:
    """`custom_dataset` of lpp_spc."""
    return _dataset("spc")


def cloze_dataset(**_: Any) -> Any:
    """`custom_dataset` of pydoc_cloze."""
    return _dataset("cloze")


def _dataset(probe: str) -> Any:
    import datasets

    splits = read_items(probe)
    return {name: datasets.Dataset.from_list(items) for name, items in splits.items()}
