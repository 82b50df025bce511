"""Ranks by depth as a page: how narrow each model is in its middle, then every site."""

import shlex
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.pages.data import with_names
from lpp.analyze.pages.page import Chart, Opening, Page, Section, drawing
from lpp.analyze.pages.table import Table, table_of
from lpp.analyze.pages.words import Run, Sentence, listed, number, signed
from lpp.analyze.quantities.flags import MEANING
from lpp.analyze.studies.layers import RANKS, SETTING, Layers, after_sinks

_LEADING: Final = "zscore_effective_rank"
"""The rank of the conclusion: a collapse leaves nothing of the plain ranks to see."""

_LABELS: Final = {
    **{name: METRICS[name].short for name in RANKS},
    **{"top_share": "top", "first_position": "from", "n_prompts": "prompts"},
}

_LEAD: Final = (
    "Hourglass: above 0 if both ends of a model use more dimensions than its middle third. top: "
    "share of the first eigenvalue. zPR, zER: of z-scored columns; rPR, rER: the five columns of "
    "highest variance clipped."
)


def layers_page(url: str, answer: Layers, names: Mapping[str, str]) -> Page:
    """The page of `answer`, about the store at `url`. names: short names by run id."""
    runs = RunStyles({run: names[run] for run in answer.layers["run"].unique(maintain_order=True)})
    sentences = tuple(_conclusions(answer))
    curves = _sites(answer)
    tables = (_scores(answer), curves)
    return Page(
        title="Ranks by depth",
        opening=Opening(sentences[0] if sentences else ()),
        findings=(*sentences[1:], *_sinks(answer.layers)),
        sections=(
            Section("depth", "Where in depth", _LEAD, tuple(_charts(answer, curves, runs)), tables),
            Section("left-out", "Left out", notes=tuple((line,) for line in answer.left_out)),
        ),
        meanings=MEANING,
        runs=runs,
        next=(
            f"lpp-sql {shlex.quote(url)} "
            '"SELECT run, first_position, metric, score FROM hourglass"',
        ),
        document={
            "layers": with_names(answer.layers, names).to_dicts(),
            "hourglass": with_names(answer.scores, names).to_dicts(),
            "left_out": list(answer.left_out),
        },
        csv=with_names(answer.layers, names),
        store=url,
    )


def _conclusions(answer: Layers) -> Iterator[Sentence]:
    """A sentence on each curve: where it is narrow."""
    short = METRICS[_LEADING].short
    for row in answer.scores.filter(metric=_LEADING).iter_rows(named=True):
        where = _where(row)
        if row["score"] is None:
            yield Run(row["run"]), f"{where} has no hourglass score of {short}: {row['reason']}."
            continue
        shape = "narrower" if row["score"] > 0 else "no narrower"
        thirds = listed([number(row[third]) for third in ("first", "middle", "last")])
        yield (
            Run(row["run"]),
            f"{where} is {shape} in its middle third than at both ends: {short} {thirds} of its "
            f"thirds, hourglass {signed(row['score'])}.",
        )


def _where(row: Mapping[str, Any]) -> str:
    skipped = f" from position {row['first_position']} on" if row["first_position"] else ""
    return f" at context {row['context']}, {row['n_prompts']} prompts{skipped},"


def _scores(answer: Layers) -> Table:
    """A row for each curve, the hourglass score of each rank beside the others."""
    scores = answer.scores.pivot("metric", index=SETTING, values="score", maintain_order=True)
    kept = [name for name in SETTING[1:] if scores[name].n_unique() > 1]
    return table_of(
        "hourglass",
        "Hourglass score of each rank",
        scores,
        {},
        first=["run", *kept, *RANKS],
        styles=dict.fromkeys(RANKS, "signed"),
        labels=_LABELS,
        key=SETTING,
        code="layers(STORE, settings).scores",
    )


def _sites(answer: Layers) -> Table:
    """A row for each site of each curve."""
    layers = answer.layers.sort(SETTING, maintain_order=True)
    kept = [name for name in SETTING[1:] if layers[name].n_unique() > 1]
    return table_of(
        "layers",
        "Ranks of every site",
        layers,
        METRICS,
        first=["run", *kept, "site", *RANKS, "top_share", "flags"],
        styles={"top_share": "hundredths", "relative_depth": "hundredths"},
        labels=_LABELS,
        key=(*SETTING, "site"),
        code="layers(STORE, settings).layers",
        brief=False,
    )


def _charts(answer: Layers, table: Table, runs: RunStyles) -> Iterator[Chart]:
    yield Chart(
        "depth",
        "depth",
        table,
        "Ranks by depth",
        "From embedding (0) to the last layer (1), on log axes. Below the plot a cross marks a "
        "collapsed layer, a dagger one whose first positions are attention sinks.",
        partial(drawing("depth_chart"), answer.layers, runs=runs),
        partial(drawing("depth_panels"), answer.layers, runs=runs),
        opens=True,
    )


def _sinks(layers: pl.DataFrame) -> Iterator[Sentence]:
    """What attention sinks make of each curve of all positions."""
    of_all = layers.filter(first_position=0)
    for (run, *rest), rows in of_all.group_by(SETTING, maintain_order=True):
        with_sinks = rows.filter(pl.col("n_sinks") > 0)
        if with_sinks.is_empty():
            continue
        end = max(with_sinks["sink_end"].drop_nulls(), default=0)
        places = "position" if end == 1 else f"{end} positions"
        parts: list[str] = [
            f" holds attention sinks at the first {places} of {len(with_sinks)} of its "
            f"{len(rows)} layers: tokens whose states are far larger than any other's, so that the "
            "ranks there are mostly those of these tokens."
        ]
        first = after_sinks(rows)
        after = layers.filter(
            pl.col("site").is_in(with_sinks["site"].to_list()),
            run=run,
            context=rest[0],
            n_prompts=rest[1],
            first_position=first,
        )
        if len(after):
            spans = [_span(some["participation_ratio"]) for some in (after, with_sinks)]
            parts.append(
                f" Without the first {first} positions the PR of these layers is {spans[0]} "
                f"instead of {spans[1]}."
            )
        yield Run(str(run)), *parts


def _span(values: pl.Series) -> str:
    """The least and the largest of some numbers."""
    there = values.drop_nulls().to_list() or [None]
    return " to ".join(dict.fromkeys((number(min(there)), number(max(there)))))
