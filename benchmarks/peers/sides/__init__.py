"""Every side, by the name of its command. Importing this imports no library of any side."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final, Literal

from benchmarks.peers.work import Work

Run = Callable[[Path], None]
"""The timed work of a side: writes what it computes into a folder that it makes."""

Task = Literal["states", "profile"]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One way to do a task; its module has `load(work)`, which returns a `Run`."""

    module: str
    title: str
    task: Task
    """states: the hidden states of every site and the entropy of every token, on disk.
    profile: mean entropy, PR / r and ER / r of `final` at every prefix."""
    keeps: bool = True
    """Whether it writes what it computes; the bare forward pass does not."""

    def load(self, work: Work) -> Run:
        """Import the libraries of this side and load the model."""
        run: Run = import_module(f"{__name__}.{self.module}").load(work)
        return run


SIDES: Final = {
    "lpp-capture": Side(module="lpp_capture", title="lpp-capture", task="states"),
    "transformers": Side(
        module="plain_transformers", title="transformers + safetensors", task="states"
    ),
    "nnsight": Side(module="by_nnsight", title="nnsight + safetensors", task="states"),
    "transformer-lens": Side(
        module="by_transformer_lens", title="TransformerLens + safetensors", task="states"
    ),
    "bare": Side(module="bare", title="bare forward pass", task="states", keeps=False),
    "lpp-profile": Side(module="lpp_profile", title="lpp-capture, then analyze", task="profile"),
    "paper": Side(module="paper", title="the paper's procedure", task="profile"),
}
"""In the order of the tables."""

REFERENCE: Final[dict[Task, str]] = {"states": "transformers", "profile": "paper"}
"""The side of each task that the numbers of the others are compared with."""
