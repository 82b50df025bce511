"""The page of `lpp-analyze diff`: two runs."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.drift.drift import Drift
from lpp.analyze.drift.gate import gate_page
from lpp.analyze.drift.gate.verdicts import Verdict
from lpp.analyze.drift.pages.drift_page_parts import charts, conclusion, opening
from lpp.analyze.drift.pages.drift_page_tables import (
    DRIFT,
    FACTS,
    HISTOGRAM,
    POSITIONS,
    SITES,
    TOKENS,
    ends,
    for_programs,
    frames_of,
    shaped,
)
from lpp.analyze.drift.tables import stores
from lpp.analyze.drift.worst import worst_tokens
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.pages.page import Page, Section
from lpp.analyze.pages.provenance import origin_of
from lpp.analyze.pages.table import Shape, Table
from lpp.analyze.pages.tokens import shown_words
from lpp.analyze.pages.words import (
    Code,
    Sentence,
    run,
    say,
)
from lpp.analyze.quantities.drift import PREDICTIONS, SITE_CHANGES
from lpp.analyze.quantities.flags import MEANING
from lpp.analyze.quantities.quantity import Quantity, capital, legend
from lpp.store.format.run_names import run_names
from lpp.store.settings.command_line import as_words
from lpp.store.settings.setting import as_python

_IMPORTS: Final = """\
from lpp.analyze import DiffSettings, diff
from lpp.analyze.numerics.kl_histogram import kl_histogram
from lpp.analyze.drift.summaries import by_position
from lpp.analyze.drift.tables import drift_tables
from lpp.analyze.drift.worst import worst_tokens"""

_CODE: Final = {
    DRIFT.name: 'drift_tables(found)["drift_predictions"]',
    SITES.name: 'drift_tables(found)["drift_sites"]',
    POSITIONS.name: "by_position(found.tokens, found.pair.groups)",
    HISTOGRAM.name: "kl_histogram(found.tokens)",
    TOKENS.name: "worst_tokens(found)",
}
"""Python that gives the rows of each table; `found` is a `Drift`."""

FEW_SITES: Final = 6
"""Most sites that text shows without --all."""

IN_SHORT: Final = ("kl", "flips", "top10", "next_logprob", "log_perplexity", "entropy")
"""Numbers of the predictions that text shows without --all."""


def drift_page(
    drift: Drift,
    verdicts: Sequence[Verdict] = (),
    items: Sequence[Section] = (),
    item_frames: Mapping[str, pl.DataFrame] = MappingProxyType({}),
) -> Page:
    """The page of one comparison; no database is read or written.

    items: sections about the items of tasks that both runs answered; item_frames: their rows by
    table. Raises FormatError for altered bytes.
    """
    a, b = drift.pair.runs
    runs = RunStyles(run_names({one.id: one.plan for one in (a, b)}))
    frames, pair, homes = frames_of(drift), (a.id, b.id), stores(drift.pair)
    where = f"{homes[0]}", a.id, b.id if len(homes) == 1 else f"{homes[1]}::{b.id}"
    again = ["lpp-analyze", "diff", *where, *as_words(drift.settings)]
    named = ", ".join(map(repr, where))
    call = f"{_IMPORTS}\n\nfound = diff({named}, {as_python(drift.settings)})"
    same = ["run_a", "run_b", "cluster", "n_prompts", "first_position"]
    if drift.seed is None:
        same.append("n_drawn")

    def table(shape: Shape, frame: pl.DataFrame, **more: Any) -> Table:
        rows = frame.drop(same, strict=False)
        code = f"{call}\n{_CODE[shape.name]}"
        missing = None if len(rows) else "Nothing to show"
        return shaped(shape, rows, code=code, missing=missing, **more)

    predictions, sites = frames[DRIFT.name], frames[SITES.name]
    few: dict[str, dict[str, Any]] = {
        DRIFT.name: {"short": predictions.filter(pl.col("number").is_in(IN_SHORT))},
        SITES.name: {"short": ends(sites) if len(sites) > FEW_SITES else None},
    }
    tables = {
        shape.name: table(shape, frames[shape.name], **few.get(shape.name, {"brief": False}))
        for shape in (DRIFT, POSITIONS, HISTOGRAM, SITES)
    }
    drawn = list(charts(frames, tables, runs))
    gate = {b.id: verdicts} if verdicts else {}
    by_kl, worst = drift.no_logits is None, _worst(drift)
    fact = frames[FACTS].row(0, named=True)
    start, *notes = what_was_compared(fact)
    sections = (
        *([gate_page.gate_section(gate)] if gate else []),
        Section(
            "predictions",
            "Predictions",
            charts=tuple(chart for chart in drawn if chart.section == "predictions"),
            tables=tuple(tables.values())[:3],
            notes=tuple(_ties(fact)),
            more=_legend(PREDICTIONS, drift.predictions),
        ),
        Section(
            "sites",
            "Inside",
            "±: standard error over prompts, paired.",
            charts=tuple(chart for chart in drawn if chart.section == "sites"),
            tables=(tables[SITES.name],),
            more=_legend(SITE_CHANGES, {name for site in drift.sites for name in site.numbers}),
        ),
        Section(
            "tokens",
            f"Where {'KL(A || B) is largest' if by_kl else 'ln p(next) changed most'}",
            "at: prompt and position; A and B: the most likely next token of each, p: its "
            "probability.",
            tables=(
                table(
                    TOKENS,
                    worst,
                    labels={"expected_a": "A", "expected_b": "B"}
                    | dict.fromkeys(("probability_a", "probability_b"), "p"),
                    styles=dict.fromkeys(("probability_a", "probability_b"), "hundredths"),
                    brief=False,
                ),
            ),
        ),
        *items,
        Section("again", "The command", notes=((Code(shlex.join(again)),),), brief=False),
    )
    return Page(
        title="Drift between two models",
        about=say(f"From {run(a.id)} to {run(b.id)}"),
        opening=opening(
            frames, [pair], start, gate_page.conclusion(gate) + conclusion(frames, pair)
        ),
        findings=tuple((line,) for line in notes),
        further=((f"{capital(fact['arithmetic'])}.",),) if fact["arithmetic"] else (),
        sections=sections,
        meanings=MEANING,
        runs=runs,
        next=(f"lpp-sql {shlex.quote(where[0])} --run drift_tokens",) if len(homes) == 1 else (),
        data={
            **for_programs(frames),
            TOKENS.table: worst,
            "gate": gate_page.gate_rows(gate),
            **item_frames,
        },
        store=where[0],
        origin=origin_of([a] if drift.pair.of_one_run else [a, b]),
    )


def what_was_compared(fact: Mapping[str, Any]) -> Iterator[str]:
    """The setting; then a sentence for each fact that a reader has to know. fact: of `facts`."""
    n, n_a, n_b = (fact[name] for name in ("n_prompts", "n_prompts_a", "n_prompts_b"))
    of = f" of {n_a} in A and {n_b} in B" * ({n_a, n_b} != {n})
    start = f", positions from {fact['first_position']} on" * bool(fact["first_position"])
    yield f"the first {n} prompts{of}, {fact['n_tokens']:,} tokens{start}"
    if fact["exactly_equal"]:
        yield f"{'A and B are one run. ' * fact['one_run']}Every difference is exactly 0."
    if fact["seed"] is not None:
        yield f"Predictions: of {fact['n_compared']:,} tokens, drawn with seed {fact['seed']}."
    if (field := fact["cluster"]) is not None:
        yield f"Errors are over clusters: prompts with the same {field} are left out together."
    if fact["no_logits"] is not None:
        yield f"No KL: {fact['no_logits']}"
    yield from fact["notes"]


def _legend(numbers: Mapping[str, Quantity], shown: Iterable[str]) -> str:
    """Meanings of the names in a table; metrics that a gate added are shown as B - A."""
    more = [METRICS[name] for name in sorted(shown) if name not in numbers and name in METRICS]
    return f"{legend(numbers.values())}." + f" Second run - first: {legend(more)}." * bool(more)


def _ties(fact: Mapping[str, Any]) -> Iterator[Sentence]:
    """How often equal logits decide flips and top10; nothing where they never do."""
    shares = {name: fact[f"ties_{name}"] for name in ("flips", "top10")}
    if tied := [f"{name} at {100 * share:.2g} %" for name, share in shares.items() if share]:
        yield (f"Equal logits, ordered by id, decide {', '.join(tied)} of tokens.",)


def _worst(drift: Drift) -> pl.DataFrame:
    """The tokens after which the predictions changed most."""
    change = "kl" if drift.no_logits is None else "change"
    rows = [
        {
            "prompt_id": t.prompt_id,
            "position": t.position,
            change: t.change,
            "at": f"{t.prompt_id}:{t.position}",
            "text_so_far": t.context,
            "came": t.came,
            "expected_a": t.a.token,
            "probability_a": t.a.probability,
            "expected_b": t.b.token,
            "probability_b": t.b.probability,
        }
        for t in worst_tokens(drift)
    ]
    return shown_words(pl.DataFrame(rows, infer_schema_length=None))
