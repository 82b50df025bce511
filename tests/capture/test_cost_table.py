"""The cost table of the how-to on many cards, and what other pages say of costs, are what the code
computes.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.scaling import (
    Constants,
    Model,
    capture_stages,
    seconds_per_token,
)
from benchmarks.synthetic import synthetic_run
from lpp.capture.models.device import KINDS
from lpp.capture.plan.sizes import host_bytes, row_bytes, run_size
from lpp.store.format.plan import Plan, SiteSpec
from lpp.store.format.schedule import prefix_schedule, shard_boundaries
from lpp.store.units import duration, short_bytes

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
TABLE = DOCS / "how-to" / "many-cards.md"
LENGTH = 200
MODELS = {
    model.name: model
    for model in (
        Model(name="SmolLM2-135M", parameters=0.135e9, width=576, sites=32),
        Model(name="1.5B", parameters=1.5e9, width=1536, sites=30),
        Model(name="7B", parameters=7.6e9, width=3584, sites=30),
        Model(name="70B", parameters=70e9, width=8192, sites=82),
    )
}
SEVERAL_GPUS = "70B"
"""Needs more than one card."""


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """Any plan in bfloat16, to be changed."""
    run = synthetic_run(tmp_path_factory.mktemp("cost"), 10 * LENGTH, 8, length=LENGTH)
    return replace(run.plan, prefixes=prefix_schedule(LENGTH))


def table() -> Iterator[tuple[str, int, list[str]]]:
    """(model, prompts, further cells) of each row; only a model's first row names it."""
    model = ""
    for line in TABLE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and cells[1].replace(",", "").isdecimal():
            model = cells[0].partition(",")[0] or model
            yield model, int(cells[1].replace(",", "")), cells[2:]


def of_model(plan: Plan, model: Model) -> Plan:
    """The plan with every site of a model."""
    names = ("embed", *(f"block.{k}" for k in range(1, model.sites - 1)), "final")
    site = SiteSpec(name="embed", convention="residual", width=model.width)
    return replace(plan, sites=tuple(replace(site, name=name) for name in names))


def sizes_of(plan: Plan, model: Model, count: int) -> list[str]:
    """Disk and memory of one row, by the code that --dry-run uses."""
    prompts = replace(plan.prompts, count=count, tokens=count * LENGTH)
    plan = replace(of_model(plan, model), prompts=prompts)
    lengths = [LENGTH] * count
    memory = []
    for size in (KINDS["cpu"].shard_bytes, KINDS["cuda"].shard_bytes):
        shards = shard_boundaries(lengths, row_bytes(plan), size)
        memory.append(host_bytes(replace(plan, shards=shards), np.array(lengths, np.int32)))
    disk = short_bytes(run_size(plan).packed)
    return [disk, " / ".join(f"{size / 1e9:.2f}" for size in memory) + " GB"]


def time_on_gpus(model: Model, count: int) -> str:
    """Of rows to a disk, by the simulator of SCALING.md."""
    cards = 4 if model.name == SEVERAL_GPUS else 1
    stages = capture_stages(Constants(), model, cards, "disk")
    seconds = count * LENGTH * seconds_per_token(stages)
    text = duration(seconds) if seconds >= 1 else "under 1 s"
    return text if cards == 1 else f"{text} on four"


def test_computed_cells(plan: Plan) -> None:
    for name, count, (rows, memory, _, gpu) in table():
        model = MODELS[name]
        disk, *computed = sizes_of(plan, model, count)
        assert rows.endswith(" (measured)") or rows == disk, (name, count)
        assert [memory, gpu] == [*computed, time_on_gpus(model, count)], (name, count)


def test_the_readme_shows_rows_of_the_table() -> None:
    cells = {(model, f"{count:,}", *more) for model, count, more in table()}
    lines = (line.strip("|").split("|") for line in README.read_text("utf-8").splitlines())
    shown = [[cell.strip() for cell in line] for line in lines if len(line) == 6]
    models = [(row[0].partition(",")[0], *row[1:]) for row in shown if row[1][0].isdecimal()]
    assert len(models) == len(MODELS)
    assert {*models} <= cells
