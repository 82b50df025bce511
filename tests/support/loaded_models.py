"""Calls of `lpp.capture.capture` with a loaded model: texts, settings, and what goes with it."""

import itertools
import signal
from collections.abc import Callable
from typing import Any, Final

import torch
import transformers

TEXTS = ["the dog and the fox " * (1 + n % 5) for n in range(12)]
SETTINGS: dict[str, Any] = {"context": 20, "quiet": True}

Load = Callable[..., Any]
"""The fixture `load` of tests/capture."""


def tokenizer_of(model: Any) -> Any:
    """The tokenizer in the folder that the model came from."""
    return transformers.AutoTokenizer.from_pretrained(model.config._name_or_path)


class Halved(torch.nn.Module):
    """A module of a user's own: half of what another gives."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        found: torch.Tensor = self.inner(*args, **kwargs)
        return found / 2


CALLS: Final = itertools.count()


class Interrupting(torch.nn.Identity):
    """Sends this process what Ctrl-C sends, at one call of all."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        if next(CALLS) == 16:
            signal.raise_signal(signal.SIGINT)
        return states
