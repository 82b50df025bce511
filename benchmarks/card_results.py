"""What graphics cards reached: in benchmarks/cards/ a page and a JSON file for each measurement.

`make test-gpu` and `make bench-gpu` write them, `make tables` the table of
docs/how-to/many-cards.md.
"""

import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from benchmarks.marked import table
from lpp.capture.models.device import card_name, kind_of
from lpp.store.arrays.decode_pool import usable_cores
from lpp.store.units import counted

CARDS: Final = Path(__file__).with_name("cards")
"""Folder of the committed measurements."""

DEVICE: Final = os.environ.get("LPP_TESTS_ON", "cuda")
"""The device to test and measure: cuda, which is AMD's name too, xpu, mps, or cpu for a trial."""

VERSIONS: Final = ("lpp-engine", "torch", "transformers", "vllm", "bitsandbytes")

NONE: Final = "None yet: no card has been measured. `make bench-gpu` measures one."


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a capture of one model, alone, or the whole capture, which comes last."""

    name: str
    tokens_per_second: float
    bytes_per_second: float | None = None
    """Raw bytes of rows, where the stage moves some; stored ones for the disk."""


def slowest(stages: Sequence[Stage]) -> Stage:
    """The slowest stage alone: the whole capture, which comes last, is left out."""
    return min(stages[:-1], key=lambda stage: stage.tokens_per_second)


def rows_of(measured: Mapping[str, Sequence[Stage]]) -> list[dict[str, Any]]:
    """A row for each stage of each model, with the ratio of its time to the forward pass's.

    The forward pass is the first stage.
    """
    return [
        {
            "model": model,
            "stage": stage.name,
            "tokens_per_second": stage.tokens_per_second,
            "bytes_per_second": stage.bytes_per_second,
            "times_forward": stages[0].tokens_per_second / stage.tokens_per_second,
        }
        for model, stages in measured.items()
        for stage in stages
    ]


def write(folder: Path, card: str, what: str, found: Mapping[str, Any], page: str) -> Path:
    """Write `<card>-<date>-<what>.json` and, beside it, a page of Markdown; the path of the page.

    what: speed or tests. page: what follows the title and the line of versions. Of one day the last
    results stay.
    """
    today = datetime.now(UTC).date().isoformat()
    setting = {
        "card": card,
        "date": today,
        "cores": usable_cores(),
        "commit": _commit(),
        "versions": dict(_versions()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{re.sub('[^a-z0-9]+', '-', card.lower()).strip('-')}-{today}-{what}.json"
    path.write_text(json.dumps({**setting, **found}, indent=1) + "\n", "utf-8")
    releases = ", ".join(f"{name} {release}" for name, release in _versions())
    head = f"{today}, {counted(usable_cores(), 'core')}, commit {_commit()}. {releases}."
    path.with_suffix(".md").write_text(f"# {card}: {what}\n\n{head}\n\n{page}\n", "utf-8")
    return path.with_suffix(".md")


def here(device: str) -> tuple[str, Path]:
    """The card's name, and the folder of its results. Those of a CPU are no results of a card."""
    if kind_of(device).on_host:
        return "CPU", CARDS.parents[1] / "build" / "cards"
    return card_name(device), CARDS


def next_step(page: Path) -> str:
    """What a command says at its end."""
    how = "To contribute it: make tables, commit benchmarks/cards/ and docs/, open a pull request."
    return f"Written: {page}, and a .json beside it. {how if page.parent == CARDS else ''}".rstrip()


def results_table(folder: Path = CARDS) -> str:
    """Markdown: a line for each model on each card, newest first; `NONE` for an empty folder."""
    documents = [json.loads(path.read_text("utf-8")) for path in folder.glob("*-speed.json")]
    documents.sort(key=lambda document: (document["date"], document["card"]), reverse=True)
    lines = [
        (
            f"{document['card']}, {document['cores']} cores",
            model,
            f"{whole['tokens_per_second']:,.0f}",
            f"{whole['times_forward']:.2f}",
            min(alone, key=lambda row: row["tokens_per_second"])["stage"],
            f"{document['date']}, {document['commit']}, torch {document['versions']['torch']}",
        )
        for document in documents
        for model in dict.fromkeys(row["model"] for row in document["rows"])
        for *alone, whole in [[row for row in document["rows"] if row["model"] == model]]
    ]
    heads = ("card", "model", "tokens/s", "time / forward pass", "slowest stage", "measured")
    return table(heads, lines) if lines else NONE


def _versions() -> Iterator[tuple[str, str]]:
    import torch

    yield "Python", platform.python_version()
    for name in VERSIONS:
        with suppress(PackageNotFoundError):
            yield name, version(name)
    for name, release in (("CUDA", torch.version.cuda), ("HIP", torch.version.hip)):
        if release:
            yield name, release


def _commit() -> str:
    """The short hash of the commit that is measured; `unknown` outside a clone."""
    words = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(words, cwd=CARDS.parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
