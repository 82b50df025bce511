"""What graphics cards reached: one JSON file a measurement in benchmarks/cards/, and a table.

`make bench-gpu` writes the file, `make tables` the table of docs/how-to/many-cards.md.
"""

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks.marked import table

CARDS: Final = Path(__file__).with_name("cards")
"""Folder of the committed measurements."""

VERSIONS: Final = ("lpp-engine", "torch", "transformers")

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


def write(folder: Path, card: str, cores: int, measured: Mapping[str, Sequence[Stage]]) -> Path:
    """Write stages by model as `<card>-<date>.json`; each with its time / that of the forward pass.

    The forward pass alone is the first stage. A second measurement of one day replaces the first.
    """
    today = datetime.now(UTC).date().isoformat()
    rows = [
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
    document = {
        "card": card,
        "date": today,
        "cores": cores,
        "commit": _commit(),
        "versions": {name: version(name) for name in VERSIONS},
        "rows": rows,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{re.sub('[^a-z0-9]+', '-', card.lower()).strip('-')}-{today}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return path


def results_table(folder: Path = CARDS) -> str:
    """Markdown: a line for each model on each card, newest first; `NONE` for an empty folder."""
    documents = [json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")]
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


def _commit() -> str:
    """The short hash of the commit that is measured; `unknown` outside a clone."""
    words = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(words, cwd=CARDS.parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
