"""What changed between two models, as a page."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.drift.drift import Drift
from lpp.analyze.drift.gate import gate_page
from lpp.analyze.drift.gate.verdicts import Verdict
from lpp.analyze.drift.pages.drift_page_parts import charts, conclusion, opening
from lpp.analyze.drift.pages.drift_page_tables import (
    DRIFT,
    HISTOGRAM,
    POSITIONS,
    SITES,
    TOKENS,
    ends,
    frames_of,
    shaped,
)
from lpp.analyze.drift.sites import common_sites
from lpp.analyze.drift.summaries import Summary
from lpp.analyze.drift.tables import stores
from lpp.analyze.drift.worst import order_of, worst_tokens
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.pages.page import Page, Section
from lpp.analyze.pages.provenance import origin_of
from lpp.analyze.pages.table import Shape, Table
from lpp.analyze.pages.tokens import shown_words
from lpp.analyze.pages.words import Code, Run, Sentence
from lpp.analyze.quantities.drift import PREDICTIONS, SITE_CHANGES
from lpp.analyze.quantities.flags import MEANING
from lpp.analyze.quantities.quantity import Quantity, capital, legend
from lpp.analyze.questions import DiffSettings
from lpp.store.format.run_names import run_names
from lpp.store.settings.command_line import arguments
from lpp.store.settings.setting import as_python, declared

_SHAPES: Final = (DRIFT, SITES, POSITIONS, HISTOGRAM)

IN_SHORT: Final = ("kl", "flips", "top10", "next_logprob", "log_perplexity", "entropy")
"""Numbers of the predictions that text shows without --all."""

FEW_SITES: Final = 6
"""Most sites that text shows; of more, the first that moves, the one that moves most, the last."""

_CODE: Final = {
    DRIFT.name: 'drift_tables(found)["drift_predictions"]',
    SITES.name: 'drift_tables(found)["drift_sites"]',
    POSITIONS.name: "by_position(found.tokens, found.pair.groups)",
    HISTOGRAM.name: "kl_histogram(found.tokens)",
    TOKENS.name: "worst_tokens(found)",
}
"""Python that gives the rows of each table; `found` is a `Drift`."""

_OF_THE_PAGE: Final = ("run_a", "run_b", "cluster", "n_prompts", "first_position")
"""Columns that are constant in a comparison: the page says them once."""

_SECTION: Final = {
    **dict.fromkeys((DRIFT.name, POSITIONS.name, HISTOGRAM.name), "predictions"),
    SITES.name: "sites",
}

_LABELS: Final = {
    **{"expected_a": "A", "probability_a": "p"},
    **{"expected_b": "B", "probability_b": "p"},
}


def drift_page(
    drift: Drift,
    verdicts: Sequence[Verdict] = (),
    items: Sequence[Section] = (),
    documents: Sequence[Mapping[str, Any]] = (),
) -> Page:
    """The page of one comparison; no database is read or written.

    items: sections about the items of tasks that both runs answered; documents: these items for
    JSON. Raises FormatError for altered bytes.
    """
    a, b = (view.run for view in (drift.pair.a, drift.pair.b))
    runs = RunStyles(run_names({run.id: run.plan for run in (a, b)}))
    frames = frames_of(drift)
    tables = {shape.name: _table(drift, shape, frames[shape.name]) for shape in _SHAPES}
    gate = {b.id: verdicts} if verdicts else {}
    pair = a.id, b.id
    drawn = list(charts(frames, tables, runs, _SECTION))
    sections = (
        *([gate_page.gate_section(gate)] if gate else []),
        Section(
            "predictions",
            "Predictions",
            charts=tuple(chart for chart in drawn if chart.section == "predictions"),
            tables=tuple(tables[shape.name] for shape in (DRIFT, POSITIONS, HISTOGRAM)),
            notes=tuple(_ties(drift.predictions)),
            more=_legend(PREDICTIONS, drift.predictions),
        ),
        Section(
            "sites",
            "Inside",
            "±: standard error over prompts, paired.",
            tuple(chart for chart in drawn if chart.section == "sites"),
            (tables[SITES.name],),
            more=_legend(SITE_CHANGES, {name for site in drift.sites for name in site.numbers}),
        ),
        Section(
            "tokens",
            _title_of_tokens(drift),
            "at: prompt and position; A and B: the most likely next token of each, p: its "
            "probability.",
            tables=(_tokens(drift),),
        ),
        *items,
        Section("again", "The command", notes=((Code(_command(drift)),),), brief=False),
    )
    start, *notes = what_was_compared(drift)
    homes = stores(drift.pair)
    store = str(homes[0])
    return Page(
        title="Drift between two models",
        about=("From ", Run(a.id), " to ", Run(b.id)),
        opening=opening(
            frames, [pair], start, (*gate_page.conclusion(gate), *conclusion(frames, pair))
        ),
        findings=tuple((line,) for line in notes),
        further=((f"{capital(drift.arithmetic)}.",),) if drift.arithmetic else (),
        sections=sections,
        meanings=MEANING,
        runs=runs,
        next=(f"lpp-sql {shlex.quote(store)} --run drift_tokens",) if len(homes) == 1 else (),
        document={
            **drift.document(),
            "gate": gate_page.documents(verdicts),
            "items": list(documents),
        },
        csv=frames[DRIFT.name],
        store=store,
        origin=origin_of([a] if drift.pair.of_one_run else [a, b]),
    )


def what_was_compared(drift: Drift) -> Iterator[str]:
    """The setting; then a sentence for each fact that a reader has to know."""
    n_tokens, size = drift.pair.n_tokens(drift.first_position), drift.pair.n_prompts
    start = f", positions from {drift.first_position} on" if drift.first_position else ""
    n_held = [view.run.n_prompts for view in (drift.pair.a, drift.pair.b)]
    of = "" if {*n_held} == {size} else f" of {n_held[0]} in A and {n_held[1]} in B"
    yield f"the first {size} prompts{of}, {n_tokens:,} tokens{start}"
    if drift.is_nothing:
        who = "A and B are one run. " if drift.pair.of_one_run else ""
        yield f"{who}Every difference is exactly 0."
    if drift.seed is not None:
        yield f"Predictions: of {len(drift.tokens):,} tokens, drawn with seed {drift.seed}."
    if drift.pair.cluster is not None:
        yield (
            f"Errors are over clusters: prompts with the same {drift.pair.cluster} are left out "
            "together."
        )
    if drift.no_logits is not None:
        yield f"No KL: {drift.no_logits}"
    yield from drift.notes


def _legend(numbers: Mapping[str, Quantity], shown: Iterable[str]) -> str:
    """Meanings of the names in a table; metrics that a gate added are shown as B - A."""
    more = [METRICS[name] for name in sorted(shown) if name not in numbers and name in METRICS]
    return f"{legend(numbers.values())}." + (f" Second run - first: {legend(more)}." * bool(more))


def _ties(predictions: Mapping[str, Summary]) -> Iterator[Sentence]:
    """How often equal logits decide flips and top10; nothing where they never do."""
    shares = ((name, predictions[name].ties) for name in ("flips", "top10"))
    tied = [f"{name} at {100 * share:.2g} %" for name, share in shares if share]
    if tied:
        yield (f"Equal logits, ordered by id, decide {', '.join(tied)} of tokens.",)


# tables


def _table(drift: Drift, shape: Shape, frame: pl.DataFrame, **more: Any) -> Table:
    """The table of `shape`, without the columns that are constant in a comparison."""
    same = _OF_THE_PAGE if drift.seed is not None else (*_OF_THE_PAGE, "n_drawn")
    rows = frame.drop(same, strict=False)
    code = f"{_call(drift)}\n{_CODE[shape.name]}"
    short = None
    if shape is DRIFT:
        short = rows.filter(pl.col("number").is_in(IN_SHORT))
    elif shape is SITES and len(rows) > FEW_SITES:
        short = ends(rows)
    missing = None if len(rows) else "Nothing to show"
    brief = shape in (DRIFT, SITES)
    return shaped(
        shape, rows, **{"code": code, "brief": brief, "short": short, "missing": missing, **more}
    )


def _title_of_tokens(drift: Drift) -> str:
    by_kl = order_of(drift) == "kl"
    return f"Where {'KL(A || B) is largest' if by_kl else 'ln p(next) changed most'}"


def _tokens(drift: Drift) -> Table:
    """The tokens after which the predictions changed most."""
    change = "kl" if order_of(drift) == "kl" else "change"
    rows = [
        {
            **{"prompt_id": token.prompt_id, "position": token.position, change: token.change},
            **{"at": f"{token.prompt_id}:{token.position}", "text_so_far": token.context},
            "came": token.came,
            **{"expected_a": token.a.token, "probability_a": token.a.probability},
            **{"expected_b": token.b.token, "probability_b": token.b.probability},
        }
        for token in worst_tokens(drift)
    ]
    frame = shown_words(pl.DataFrame(rows, infer_schema_length=None))
    styles = {"probability_a": "hundredths", "probability_b": "hundredths"}
    return _table(drift, TOKENS, frame, labels=_LABELS, styles=styles)


# how to repeat it


def _call(drift: Drift) -> str:
    """The Python that repeats this comparison."""
    store, a, b = _named(drift)
    return (
        "from lpp.analyze import DiffSettings, diff\n"
        "from lpp.analyze.numerics.kl_histogram import kl_histogram\n"
        "from lpp.analyze.drift.summaries import by_position\n"
        "from lpp.analyze.drift.tables import drift_tables\n"
        "from lpp.analyze.drift.worst import worst_tokens\n\n"
        f"found = diff({store!r}, {a!r}, {b!r}, {as_python(DiffSettings(**_settings(drift)))})"
    )


def _command(drift: Drift) -> str:
    given = _settings(drift)
    by_name = {
        name: given[setting.keyword]
        for name, setting in declared(DiffSettings).items()
        if setting.keyword in given
    }
    options = arguments(DiffSettings, by_name)
    return shlex.join(["lpp-analyze", "diff", *_named(drift), *options])


def _named(drift: Drift) -> tuple[str, str, str]:
    """The store and both runs as `diff` takes them."""
    a, b = (view.run for view in (drift.pair.a, drift.pair.b))
    homes = stores(drift.pair)
    return str(homes[0]), a.id, b.id if len(homes) == 1 else f"{homes[1]}::{b.id}"


def _settings(drift: Drift) -> dict[str, Any]:
    """The number of prompts, and the settings that are not the defaults, by keyword."""
    pair, sites = drift.pair, [site.site for site in drift.sites]
    settings: dict[str, Any] = {"prompts": pair.n_prompts}
    if sites != common_sites(pair):
        settings["sites"] = sites
    if drift.first_position:
        settings["skip_first"] = drift.first_position
    if drift.seed is not None:
        settings |= {"tokens": len(drift.tokens), "seed": drift.seed}
    if pair.cluster:
        settings["cluster"] = pair.cluster
    return settings
