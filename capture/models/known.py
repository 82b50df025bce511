"""Classes of transformers that were tried, and what was found: `known_models.csv`."""

import csv
from pathlib import Path
from typing import Final

TABLE: Final = Path(__file__).with_name("known_models.csv")


def known_models() -> list[dict[str, str]]:
    """A row for each class: model_type, class, status, error_below, why, transformers."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
