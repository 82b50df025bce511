"""Calls of `lpp.capture.capture` with a loaded model: texts, settings, and what goes with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers

from lpp.store import Run, open_store

TEXTS = ["the dog and the fox " * (1 + n % 5) for n in range(12)]
SETTINGS: dict[str, Any] = {"context": 20, "quiet": True}

Load = Callable[..., Any]
"""The fixture `load` of tests/capture."""


def only_run(root: Path) -> Run:
    """The run of a store that has one."""
    (run,) = open_store(root).runs.values()
    return run


def tokenizer_of(model: Any) -> Any:
    """The tokenizer in the folder that the model came from."""
    return transformers.AutoTokenizer.from_pretrained(model.config._name_or_path)
