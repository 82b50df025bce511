"""Ranks by depth as a page: how narrow each model is in its middle, then every site."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.pages.data import with_names
from lpp.analyze.pages.page import Chart, Figure, Opening, Page, Section, drawing
from lpp.analyze.pages.table import Table, table_of
from lpp.analyze.pages.words import Sentence, listed, number, run, say, signed
from lpp.analyze.quantities.flags import MEANING
from lpp.analyze.studies.layers_tables import (
    EXPERT_LOAD,
    RANKS,
    SCORED,
    SETTING,
    after_sinks,
    without_sinks,
)
from lpp.analyze.studies.pages.profile_summary import FEW, flag_warnings

_SHORT: Final = METRICS[SCORED].short

_THIRDS: Final = ("first", "middle", "last")

_LABELS: Final = {
    **{name: METRICS[name].short for name in RANKS},
    **{"top_share": "top", "first_position": "from", "n_prompts": "prompts"},
}

_LEAD: Final = (
    f"Hourglass of {_SHORT}: above 0 if both ends use more dimensions than the middle third."
)

_MORE: Final = "top: share of the first eigenvalue. zPR, zER: of z-scored columns."


def layers_page(
    url: str,
    layers: pl.DataFrame,
    scores: pl.DataFrame,
    left_out: Sequence[str],
    names: Mapping[str, str],
    *,
    experts: pl.DataFrame,
) -> Page:
    """The page of rows of the tables `layers`, `hourglass` and `expert_load` of the store at `url`.

    left_out: a line for each run that has less than what was asked for. names: names by run
    id.
    """
    shown = pl.concat([layers["run"], experts["run"]]).unique(maintain_order=True)
    runs = RunStyles({run: names[run] for run in shown})
    curves = _sites(layers)
    return Page(
        title="Ranks by depth",
        opening=_opening(layers, scores, runs.order),
        findings=tuple(_unscored(scores)),
        further=tuple(_sinks(layers)),
        sections=(
            Section(
                "depth",
                "Hourglass score",
                _LEAD,
                tuple(_charts(layers, curves, runs)),
                (_scores(scores), curves),
                more=_MORE,
                short="Where in depth",
            ),
            *([_experts(experts, runs)] if len(experts) else []),
            Section("left-out", "Left out", notes=tuple((line,) for line in left_out)),
        ),
        meanings=MEANING,
        runs=runs,
        next=(f'lpp-sql {shlex.quote(url)} "SELECT run, first_position, score FROM hourglass"',),
        data={
            "layers": with_names(layers, names),
            "hourglass": with_names(scores, names),
            "expert_load": with_names(experts, names),
            "left_out": pl.DataFrame({"why": left_out}, schema={"why": pl.String}),
        },
        store=url,
    )


def _opening(layers: pl.DataFrame, scores: pl.DataFrame, order: Sequence[str]) -> Opening:
    """Which curves are narrow in the middle, and the thirds of each run's first curve; where a run
    has attention sinks, of the curve without them.
    """
    curves = without_sinks(layers).select(SETTING).unique()
    known = scores.join(curves, on=SETTING, how="semi", maintain_order="left")
    known = known.filter(pl.col("score").is_not_null())
    sides = [known.filter(pl.col("score") > 0), known.filter(pl.col("score") <= 0)]
    narrow, others = map(_curves, sides)
    verb = ["is" if len(side) == 1 else "are" for side in sides]
    than = " narrower in the middle third than at both ends"
    text = f"By {_SHORT}, {narrow} {verb[0]}{than}" if narrow else ""
    if others:
        text += (
            f"; {others} {verb[1]} not" if narrow else f"By {_SHORT}, {others} {verb[1]} not{than}"
        )
    firsts = known.unique("run", keep="first", maintain_order=True).head(FEW)
    settings = [_where(row) for row in firsts.iter_rows(named=True)]
    return Opening(
        say(f"{text}.") if text else (f"No model has an hourglass score of {_SHORT}.",),
        f"{_SHORT} of each third, and the hourglass score"
        + "".join(f"{where}" for where in dict.fromkeys(settings) if len({*settings}) == 1),
        (("run", ""), *((f"{third} third", _SHORT) for third in _THIRDS), ("hourglass", _SHORT)),
        tuple(
            (
                Figure(run=row["run"]),
                *(Figure(number(row[third])) for third in _THIRDS),
                Figure(signed(row["score"])),
            )
            for row in firsts.iter_rows(named=True)
        ),
        tuple(flag_warnings(layers, [{"run": one, "flags": ()} for one in order])),
    )


def _curves(scores: pl.DataFrame) -> str:
    """The curves of some scores, as the subject of a sentence."""
    if scores.height > 2 * FEW:
        return f"{scores.height} curves of {scores['run'].n_unique()} models"
    curves = scores.select("run", "first_position").iter_rows()
    return listed(
        [run(one) + f" without the first {first} positions" * bool(first) for one, first in curves]
    )


def _unscored(scores: pl.DataFrame) -> Iterator[Sentence]:
    """A sentence on each curve without a score."""
    missing = scores.filter(pl.col("score").is_null())
    for row in missing.iter_rows(named=True):
        where = _where(row)
        curve = f"{run(row['run'])}{where}"
        yield say(f"{curve} has no hourglass score of {_SHORT}: {row['reason']}.")


def _where(row: Mapping[str, Any]) -> str:
    skipped = f" from position {row['first_position']} on" if row["first_position"] else ""
    return f" at context {row['context']}, {row['n_prompts']} prompts{skipped}"


def _scores(scores: pl.DataFrame) -> Table:
    """A row for each curve."""
    scores = scores.select(*SETTING, "score")
    varying = [name for name in SETTING[1:] if scores[name].n_unique() > 1]
    return table_of(
        "hourglass",
        "Hourglass score",
        scores,
        {},
        first=["run", *varying, "score"],
        styles={"score": "signed"},
        labels=_LABELS,
        key=SETTING,
        code="layers(STORE, settings).hourglass_frame()",
    )


def _sites(layers: pl.DataFrame) -> Table:
    """A row for each site of each curve."""
    layers = layers.sort(SETTING, maintain_order=True)
    varying = [name for name in SETTING[1:] if layers[name].n_unique() > 1]
    return table_of(
        "layers",
        "Ranks of every site",
        layers,
        METRICS,
        first=["run", *varying, "site", *RANKS[:4], "top_share", "flags"],
        styles={"top_share": "hundredths", "relative_depth": "hundredths"},
        labels=_LABELS,
        key=(*SETTING, "site"),
        code="layers(STORE, settings).layers_frame()",
        brief=False,
    )


def _experts(experts: pl.DataFrame, runs: RunStyles) -> Section:
    """How evenly routers load their experts."""
    table = table_of(
        "expert_load",
        "Load of experts",
        experts,
        {column.name: column for column in EXPERT_LOAD.columns},
        first=["run", "site", "load_imbalance", "largest_load", "n_unused", "n_experts"],
        key=EXPERT_LOAD.key,
        code="layers(STORE, settings).expert_load_frame()",
    )
    text = "Orange: above an equal share of choices; blue: below it; full colour: 4 times, or 1/4."
    draw = drawing("expert_load_chart", experts, runs=runs)
    chart = Chart("experts", "experts", table, "Load by expert", text, draw)
    return Section("experts", "Load by expert", charts=(chart,), tables=(table,))


def _charts(layers: pl.DataFrame, table: Table, runs: RunStyles) -> Iterator[Chart]:
    yield Chart(
        "depth",
        "depth",
        table,
        "Ranks by depth",
        "From embedding (0) to the last layer (1), on log axes. A white core: a collapsed "
        "layer, or one whose first positions are attention sinks.",
        drawing("depth_chart", layers, runs=runs),
        opens=True,
    )


def _sinks(layers: pl.DataFrame) -> Iterator[Sentence]:
    """The effect of attention sinks on each curve of all positions."""
    of_all = layers.filter(first_position=0)
    for (run_id, *rest), rows in of_all.group_by(SETTING, maintain_order=True):
        with_sinks = rows.filter(pl.col("n_sinks") > 0)
        if with_sinks.is_empty():
            continue
        end = max(with_sinks["sink_end"].drop_nulls(), default=0)
        positions = "position" if end == 1 else f"{end} positions"
        text = (
            f"In {run(str(run_id))}, the first {positions} of {len(with_sinks)} of its {len(rows)} "
            "layers hold attention sinks: tokens with far larger hidden states than all others, "
            "which decide the ranks there."
        )
        first = after_sinks(rows)
        after = layers.filter(
            pl.col("site").is_in(with_sinks["site"].to_list()),
            run=run_id,
            context=rest[0],
            n_prompts=rest[1],
            first_position=first,
        )
        if len(after):
            spans = [_span(frame["participation_ratio"]) for frame in (after, with_sinks)]
            text += (
                f" Without the first {first} positions the PR of these layers is {spans[0]} "
                f"instead of {spans[1]}."
            )
        yield say(text)


def _span(values: pl.Series) -> str:
    """The least and the largest of some numbers."""
    there = values.drop_nulls().to_list() or [None]
    return " to ".join(dict.fromkeys((number(min(there)), number(max(there)))))
