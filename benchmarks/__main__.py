"""`make bench`: every ratio, each pair side by side in this run, as a Markdown table.

`python -m benchmarks capture storage` runs some of them.
"""

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import torch

from benchmarks import (
    analysis_cost,
    branch_cost,
    capture_cost,
    card_counts,
    carried_cost,
    compare_cost,
    continuation_cost,
    draft_cost,
    drift_cost,
    eval_cost,
    feed_cost,
    gate_null,
    integrity_cost,
    jackknife_cost,
    lengths_cost,
    many_runs,
    memory,
    paper_procedure,
    pipeline_cost,
    probe_change,
    probe_null,
    query_start,
    ray_cost,
    scaling_check,
    sink_cost,
    storage,
    teacher_cost,
    vllm_cost,
)
from benchmarks.pairs import Ratio
from benchmarks.setting import capture, prepared, rounded_pair, scratch, store_of
from lpp.analyze import build_database
from lpp.capture.cli.demo import demo_request
from lpp.capture.models.gguf import packaged_model
from lpp.store import Run

VLLM = "vllm"
"""Needs an environment of its own, so it runs when it is named (`make bench-vllm`)."""


def main(chosen: list[str]) -> None:
    """Print the table; a bar that is missed is part of the result, not a failure."""
    with scratch() as folder:
        sections = _sections(folder)
        unknown = set(chosen) - set(sections)
        if unknown:
            sys.exit(f"no benchmark {', '.join(unknown)}; there are {', '.join(sections)}")
        print(
            f"{_machine()}\n\n"
            "| ratio | ours | other | measured | bar | |\n|---|---|---|---|---|---|"
        )
        for name in chosen or [name for name in sections if name != VLLM]:
            for ratio in sections[name]():
                print(_row(ratio), flush=True)


def _sections(folder: Path) -> dict[str, Callable[[], Iterator[Ratio]]]:
    made: list[Run] = []

    def demo_run() -> Run:
        if not made:
            made.append(capture(prepared(100), folder / "store"))
            build_database(folder / "store")
        return made[0]

    def demo_pair() -> Path:
        root = folder / "pair"
        if not root.exists():
            capture(prepared(100), root)
            capture(prepared(100, model=demo_request(packaged_model(), 0).model), root)
        return root

    def of_evaluation() -> Iterator[Ratio]:
        yield from eval_cost.measure(folder / "evaluation")
        yield eval_cost.of_memory(folder / "evaluation")

    def of_feed() -> Iterator[Ratio]:
        yield from feed_cost.measure(folder)
        yield from teacher_cost.measure(folder)

    def of_rounding() -> Iterator[Ratio]:
        pair = rounded_pair(folder / "rounded", 100)
        yield from drift_cost.of_sites(pair)
        yield from storage.kept_for_logits(pair)

    def of_probes() -> Iterator[Ratio]:
        yield from probe_null.cost(folder)
        yield probe_null.memory(folder)
        yield from probe_null.measure()
        yield from probe_change.measure()

    return {
        "paper": paper_procedure.measure,
        "capture": capture_cost.measure,
        "card": card_counts.measure,
        "carried": carried_cost.measure,
        "branches": branch_cost.measure,
        "compare": lambda: compare_cost.measure(folder / "compare"),
        "continuation": continuation_cost.measure,
        "lengths": lengths_cost.measure,
        "drafts": lambda: draft_cost.measure(folder / "drafts"),
        "drift": drift_cost.measure,
        "eval": of_evaluation,
        "feed": of_feed,
        "gate": lambda: gate_null.measure(folder),
        "rounded": of_rounding,
        "pipeline": lambda: pipeline_cost.measure(folder),
        "probes": of_probes,
        "sink": lambda: sink_cost.measure(folder),
        "storage": lambda: storage.measure(demo_run(), folder),
        "query": lambda: query_start.measure(store_of(demo_run())),
        "analysis": lambda: analysis_cost.measure(demo_run()),
        "commands": lambda: analysis_cost.of_every_site(demo_pair()),
        "many": lambda: many_runs.measure(folder / "many"),
        "integrity": lambda: integrity_cost.measure(demo_run()),
        "errors": lambda: jackknife_cost.measure(demo_run()),
        "memory": lambda: memory.measure(folder),
        "ray": ray_cost.measure,
        "scaling": lambda: scaling_check.measure(folder),
        VLLM: vllm_cost.measure,
    }


def _row(ratio: Ratio) -> str:
    low, high = ratio.spread
    measured = _number(ratio.ratio)
    measured += "" if low == high else f" ({_number(low)} to {_number(high)})"
    state = "reached" if ratio.reached else f"**missed**: {ratio.bound}".removesuffix(": ")
    return (
        f"| {ratio.what} | {ratio.ours} | {ratio.other} | {measured} | "
        f"{ratio.direction} {ratio.bar:g} | {state} |"
    )


def _number(ratio: float) -> str:
    """Two decimals, and two digits where those would be none."""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


def _machine() -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return (
        f"{date.today()}, commit {commit}, {os.cpu_count()} cores ({platform.machine()}), "
        f"Python {platform.python_version()}, torch {torch.__version__.partition('+')[0]}"
    )


if __name__ == "__main__":  # the processes that `vllm_cost` starts import this too
    main(sys.argv[1:])
