"""The page of `lpp-analyze diff --against`: one run against several."""

import shlex
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from itertools import groupby
from types import MappingProxyType
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.drift.gate import gate_page
from lpp.analyze.drift.pages.drift_page_parts import conclusion, opening
from lpp.analyze.drift.pages.drift_page_tables import (
    DRIFT,
    FACTS,
    SITES,
    Pair,
    moved,
    numbers_of,
    of_pairs,
    shaped,
)
from lpp.analyze.pages.page import Chart, Frames, Page, Section, drawing
from lpp.analyze.pages.table import Table, table_of
from lpp.analyze.pages.words import number, rough, rough_percent, run, say
from lpp.analyze.quantities.drift import PREDICTIONS, SITE_CHANGES
from lpp.analyze.quantities.flags import MEANING

STRIP: Final = 34
"""Columns of the depth picture: one for each site of a model of 32 blocks."""

_AGAINST: Final = {"kl": "KL", "flips": "", "log_perplexity": "ln PPL"}
"""Numbers of the predictions in the row of a run, with headings."""

_AT_LAST: Final = ("relative_distance", "cka")
"""Numbers of the deepest site in the row of a run."""


def against_page(
    frames: Frames,
    names: Mapping[str, str],
    verdicts: gate_page.Verdicts = MappingProxyType({}),
    store: str = "",
    steps: Mapping[str, int] = MappingProxyType({}),
) -> Page:
    """The page of several comparisons with one run. frames: rows of each pair (`frames_of`), those
    with that run first, and `left_out` (`against.Against`). names: names by run id. verdicts:
    of a gate, by run. steps: of checkpoints of one training; `frames` then has their comparisons
    with the last one too.
    """
    base = frames[FACTS]["run_a"][0]
    of = frames[FACTS].filter(run_a=base)["run_b"].to_list()
    left_out = frames["left_out"]
    reasons = dict(left_out.select("run", "why").iter_rows())
    means = {b: {k: v["mean"] for k, v in numbers_of(frames, (base, b)).items()} for b in of}
    by = "kl" if all("kl" in numbers for numbers in means.values()) else "flips"
    ordered = [*steps] or sorted(of, key=lambda b: (means[b].get(by) or 0.0, b))
    pairs = [(base, b) for b in ordered]
    gate = {b: verdicts[b] for b in ordered if b in verdicts}
    undecided = dict(left_out.filter("undecided").select("run", "why").iter_rows()) if gate else {}
    runs = RunStyles({b: names[b] for b in (base, *ordered, *undecided)})
    rows = pl.DataFrame([_row(frames, pair) for pair in pairs], infer_schema_length=None)
    in_order = pl.DataFrame({"run_b": ordered})
    by_run = {
        name: in_order.join(frame.filter(run_a=base), on="run_b", maintain_order="left").select(
            frame.columns
        )
        for name, frame in frames.items()
        if "run_b" in frame.columns
    }
    sites, facts = by_run[SITES.name], by_run[FACTS]
    tables = [shaped(DRIFT, frames[DRIFT.name], brief=False), shaped(SITES, sites, brief=False)]
    strips, reading = _strips(sites, ordered)
    setting, *notes = _setting_and_notes(facts, "step" if steps else by)
    sentence = conclusion(frames, pairs[0])
    if steps:
        sentence = _along(sites, means, by, steps, base)
    elif len(pairs) > 1:
        least, most = (
            f"KL {rough(means[b]['kl'])} nats a token"
            if by == "kl"
            else f"{rough_percent(means[b][by] or 0.0)} of the most likely next tokens"
            for b in (ordered[0], ordered[-1])
        )
        sentence = (
            f"Of {len(pairs)} runs, {run(ordered[0])} differs least from {run(base)}, by {least}, "
            f"and {run(ordered[-1])} differs most, by {most}."
        )
    grid = sites.select(
        pl.col("run_a", "run_b").name.replace("run_", ""), pl.exclude("run_a", "run_b")
    )
    picture = Chart(
        "drift-grid",
        "depth",
        tables[1],
        "Distance in depth",
        "Relative distance of every site, with its number; runs in order.",
        drawing("drift_grid_chart", grid, runs=runs),
        opens=True,
    )
    if steps:
        by_step = frames[DRIFT.name].with_columns(step=pl.col("run_b").replace_strict(steps))
        picture = replace(
            picture,
            name="drift-steps",
            title="Along the training",
            text="KL and flips by step, from each run that checkpoints are compared with; below, "
            "the relative distance of every site, with its number, in the order of steps.",
            draw=drawing("drift_steps_chart", by_step, grid, runs=runs),
        )
    return Page(
        title="Drift from one model to several",
        about=say(f"From {run(base)} to {_count(pairs)}"),
        opening=opening(frames, pairs, setting, gate_page.conclusion(gate, undecided) + sentence),
        findings=tuple(map(say, notes)),
        sections=(
            *([gate_page.gate_section(gate, undecided)] if gate else []),
            Section(
                "runs",
                "Every run",
                f"Distance and CKA: at {' or '.join(rows['site'].unique(maintain_order=True))}. ±: "
                "standard error over prompts.",
                tables=(
                    table_of(
                        "against",
                        "Every run against one",
                        rows,
                        {**PREDICTIONS, **SITE_CHANGES},
                        first=["run", "n_prompts", *_AGAINST, *_AT_LAST, "flags"],
                        labels={**_AGAINST, "n_prompts": "prompts"},
                        key=("run",),
                    ),
                ),
                more="X is the run of the row. KL: KL(A || X), nats for each token. flips: share "
                "of the tokens whose most likely next token differs. ln PPL: ln PPL(X) - ln "
                "PPL(A). distance: |x - a| / |a|.",
            ),
            Section(
                "depth",
                "Where in depth",
                reading,
                (picture,),
                (strips, tables[1]),
                more="Height: relative distance; a full column is the largest of all. Blank: "
                "exactly 0; -: no number.",
            ),
            Section(
                "predictions",
                "What changed in the predictions",
                tables=(tables[0],),
                brief=False,
            ),
            Section(
                "left-out",
                "Left out",
                notes=tuple(say(f"{run(b)}: {why}.") for b, why in reasons.items()),
                brief=False,
            ),
        ),
        meanings=MEANING,
        runs=runs,
        next=(f"lpp-sql {shlex.quote(store)} --run drift",) if store else (),
        data={
            "against": rows,
            **by_run,
            DRIFT.name: pl.concat(
                [by_run[DRIFT.name], frames[DRIFT.name].filter(pl.col("run_a") != base)]
            ),
            "left_out": left_out,
            "gate": gate_page.gate_rows(gate, undecided),
        },
        store=store,
    )


def _along(
    sites: pl.DataFrame,
    means: Mapping[str, Mapping[str, float]],
    by: str,
    steps: Mapping[str, int],
    base: str,
) -> str:
    """Along a training: change of the predictions at its ends, and the first site that differs."""
    (first, *_, last), what = steps, "KL" if by == "kl" else "the share of flips"
    low, high = (rough(means[b].get(by) or 0.0) for b in (first, last))

    def begins_at(b: str) -> str | None:
        return next(iter(moved(sites.filter(run_b=b))["site"]), None)

    where = [
        f"{site} from step {steps[next(runs)]:,} on"
        for site, runs in groupby(steps, begins_at)
        if site and sites["site"].n_unique() > 1
    ]
    return (
        f"From step {steps[first]:,} to {steps[last]:,}, {what} from {run(base)} goes from {low} "
        f"to {high}{'. The first site that differs is ' * bool(where)}{', '.join(where)}."
    )


def _row(frames: Frames, pair: Pair) -> dict[str, Any]:
    """Numbers of the predictions of a run, and those of its deepest site."""
    parts = ("", "_stderr", "_ci_low", "_ci_high")
    numbers = numbers_of(frames, pair)
    last = of_pairs(frames[SITES.name], [pair])[-1:].to_dicts()[0]
    return {
        "run": pair[1],
        "n_prompts": last["n_prompts"],
        **{f"{k}{p}": numbers.get(k, {}).get(f"mean{p}") for k in _AGAINST for p in parts},
        "site": last["site"],
        **{f"{k}{p}": last[f"{k}{p}"] for k in _AT_LAST for p in parts},
        "flags": last["flags"],
    }


def _setting_and_notes(facts: pl.DataFrame, by: str) -> Iterator[str]:
    """The setting; then a sentence for each fact that a reader has to know."""
    sizes, counts = ({*facts[name]} for name in ("n_prompts", "n_compared"))
    first, seed = facts["first_position"][0], next(iter(facts["seed"].drop_nulls()), None)
    order = {
        "kl": "the smallest KL first",
        "flips": "the fewest flips first, as not every run has a KL",
        "step": "in the order of their steps",
    }[by]
    yield (
        _count(facts)
        + f" over the first {min(sizes)} prompts" * (len(sizes) == 1)
        + f", {max(counts):,} tokens each" * (len(counts) == 1 and seed is None)
        + f", positions from {first} on" * bool(first)
        + f", {order}" * (len(facts) > 1)
    )
    if len(sizes) > 1:
        yield (
            f"Runs share {min(sizes)} to {max(sizes)} prompts with A, so rows are of different "
            f"tokens. --prompts {min(sizes)} compares all runs over the same tokens."
        )
    if seed is not None:
        yield f"Predictions: of {max(counts):,} tokens each, drawn with seed {seed}."
    runs: dict[str, list[str]] = {}
    for row in facts.iter_rows(named=True):
        same = ["Every difference is exactly 0."] * row["exactly_equal"]
        missing = [f"No KL: {why}" for why in (row["no_logits"],) if why]
        for note in (*same, *missing, *row["notes"]):
            runs.setdefault(note, []).append(run(row["run_b"]))
    yield from (f"{', '.join(named)}: {note}" for note, named in runs.items())


def _count(several: Sized) -> str:
    return f"{len(several)} run{'s' * (len(several) > 1)}"


def _strips(sites: pl.DataFrame, runs: Sequence[str]) -> tuple[Table, str]:
    """A strip of distances for each run, on one scale; and how to read it."""
    depth = sites.sort("depth", pl.col("site") == "final")["site"].unique(maintain_order=True)
    step = -(-len(depth) // STRIP)
    groups = [depth[k : k + step].to_list() for k in range(0, len(depth), step)]
    known = sites.filter(pl.col("relative_distance").is_not_null())
    most = float(known["relative_distance"].fill_null(0.0).to_numpy().max(initial=0.0))
    rows = []

    def column(value: float | None) -> str:
        if not value:
            return "-" if value is None else " "
        return "▁▂▃▄▅▆▇█"[min(int(8 * value / most), 7)]

    for b in runs:
        of = dict(known.filter(run_b=b).select("site", "relative_distance").iter_rows())
        cells = (max((of[s] for s in group if s in of), default=None) for group in groups)
        at = max(of, key=lambda site: of[site], default=None)
        strip = "".join(map(column, cells))
        rows.append({"run": b, "strip": strip, "largest": of.get(at), "at": at})
    each = f"the largest of {step} sites" if step > 1 else "each site"
    table = table_of(
        "strips",
        "Distance in depth",
        pl.DataFrame(rows, infer_schema_length=None),
        {},
        labels={"strip": "distance in depth"},
        key=("run",),
        folded=True,
        brief=len(depth) > 1,
    )
    return table, (
        f"A column for {each}, {groups[0][0]} to {groups[-1][-1]}; a full one is {number(most)}."
    )
