"""Calls of `lpp.capture.capture` with a loaded model: texts, settings, and what goes with it."""

from collections.abc import Callable
from typing import Any

import transformers

TEXTS = ["the dog and the fox " * (1 + n % 5) for n in range(12)]
SETTINGS: dict[str, Any] = {"context": 20, "quiet": True}

Load = Callable[..., Any]
"""The fixture `load` of tests/capture."""


def tokenizer_of(model: Any) -> Any:
    """The tokenizer in the folder that the model came from."""
    return transformers.AutoTokenizer.from_pretrained(model.config._name_or_path)
