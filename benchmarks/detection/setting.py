"""What every model of the study reads, where it is captured, and how often prompts are drawn."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.detection.draws import Floats, drawn_weights
from lpp.store.errors import InputError
from lpp.store.objects.disk import make_directory, replace_file

SKIPPED: Final = (0, 2)
"""First positions compared: with the attention sinks and without them. SmolLM2 has a sink at the
first position of every prompt and at the second of some."""

DRAWN: Final = SKIPPED[-1]
"""First position of the draws."""

SIZES: Final = (10, 30, 100)
"""Prompts of a draw."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Of one study."""

    model: Path
    """Folder of the model, for `from_pretrained`."""
    n_blocks: int
    root: Path
    """Where runs and what is measured of them lie."""
    prompts: int = 200
    context: int = 64
    n_sites: int = 4
    """Blocks over the depth, the last one among them."""
    sizes: tuple[int, ...] = SIZES
    draws: int = 100
    keep: bool = False
    """Whether the rows of a measured dose stay on disk."""

    @property
    def document(self) -> dict[str, Any]:
        """What the numbers depend on beside the doses, for JSON."""
        own = asdict(self)
        return {name: own[name] for name in own if name not in ("model", "root", "keep")}

    def claim(self) -> None:
        """Say in `root` what its files are of. InputError where they are of another setting."""
        path = self.root / "setting.json"
        text = json.dumps(self.document, indent=1)
        if path.exists() and path.read_text("utf-8") != text:
            raise InputError(
                f"{self.root} holds another study, with the settings in {path.name}. Take another "
                "directory with --store, or the same --prompts and --context.",
            )
        make_directory(self.root)
        replace_file(path, text.encode())

    @property
    def sites(self) -> list[str]:
        """Captured sites, in depth order."""
        chosen = {max(1, self.n_blocks * k // self.n_sites) for k in range(1, self.n_sites + 1)}
        return ["embed", *(f"block.{k}" for k in sorted(chosen)), "final"]

    @property
    def middle(self) -> str:
        """The site of the middle block."""
        return self.sites[len(self.sites) // 2 - 1]

    @property
    def weights(self) -> list[Floats]:
        """(draws, P) prompts of each draw, for each size."""
        return [drawn_weights(self.prompts, size, self.draws) for size in self.sizes]

    def store(self, name: str) -> Path:
        """The store of one model."""
        return self.root / "runs" / name

    def points(self, name: str) -> Path:
        """What is measured of a dose, over all prompts: written last, so it is finished."""
        return self.root / "doses" / f"{name}.json"

    def draws_of(self, name: str) -> Path:
        """Values of a dose on every draw of prompts."""
        return self.root / "doses" / f"{name}.npz"
