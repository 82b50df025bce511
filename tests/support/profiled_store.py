"""Stores whose database holds made-up profiles, and tables of scores beside them."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lpp.analyze import add_benchmarks
from lpp.sql import arrow_schema, build
from lpp.store import create_store

MODELS = [  # model, billions, entropy, PR/r, one benchmark
    ("org/a", 1.0, 0.9, 0.11, 10.0),
    ("org/b", 2.0, 0.7, 0.12, 35.0),
    ("org/c", 3.0, 0.8, 0.19, 40.0),
    ("org/d", 4.0, 0.3, 0.14, 60.0),
    ("org/e", 5.0, 0.4, 0.15, 44.0),
    ("org/f", 6.0, 0.2, 0.16, 55.0),
]


def put(
    root: Path, runs: Sequence[Mapping[str, Any]], profiles: Sequence[Mapping[str, Any]]
) -> Path:
    """A database of these runs and profiles, as `profile` would have left it."""
    create_store(root)
    defaults: dict[str, Any] = {"prompt_set": "p0", "corpus": "prose", "plan": "{}"}
    at: dict[str, Any] = {"context": 100, "n_prompts": 50, "first_position": 0, "site": "final"}
    at["flags"] = []
    build(
        root,
        {
            "runs": pa.Table.from_pylist([{**defaults, **r} for r in runs], arrow_schema("runs")),
            "site_profiles": pa.Table.from_pylist(
                [{**at, **p} for p in profiles], arrow_schema("site_profiles")
            ),
        },
    )
    return root


def run_of(model: str) -> str:
    return f"{model.rpartition('/')[2].lower()}-0000"


def profiled_store(
    root: Path,
    count: int = 6,
    *,
    runs: Mapping[str, Mapping[str, Any]] | None = None,
    profiles: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """A store of the first `count` MODELS; `runs` and `profiles` alter rows by model."""
    chosen = MODELS[:count]
    of_runs = [
        {"run": run_of(m), "model": m, "n_parameters": int(b * 1e9), **(runs or {}).get(m, {})}
        for m, b, *_ in chosen
    ]
    of_profiles = [
        {
            "run": run_of(m),
            "entropy_floor": h,
            "participation_ratio": 100 * pr,
            "participation_ratio_norm": pr,
            "effective_rank": 300 * pr,
            "effective_rank_norm": 3 * pr,
            **(profiles or {}).get(m, {}),
        }
        for m, _, h, pr, _ in chosen
    ]
    return put(root, of_runs, of_profiles)


def score(root: Path, name: str = "mine", **columns: Sequence[object]) -> None:
    """Add a wide table; by default the benchmark of MODELS."""
    columns = columns or {"model": [m[0] for m in MODELS], "Bench": [m[4] for m in MODELS]}
    path = root.parent / f"{name}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    add_benchmarks(root, [path])
