"""The page of `lpp-analyze diff`: two runs."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
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
    shaped,
)
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.pages.page import Frames, Page, Section
from lpp.analyze.pages.table import Shape, Table
from lpp.analyze.pages.tokens import shown_words
from lpp.analyze.pages.words import Code, Sentence, run, say
from lpp.analyze.quantities.drift import PREDICTIONS, SITE_CHANGES
from lpp.analyze.quantities.flags import MEANING
from lpp.analyze.quantities.quantity import Quantity, capital, legend
from lpp.analyze.questions import DiffSettings
from lpp.store.settings.command_line import as_words
from lpp.store.settings.setting import as_python

_IMPORTS: Final = """\
from lpp.analyze import DiffSettings, diff
from lpp.analyze.numerics.kl_histogram import kl_histogram
from lpp.analyze.drift.summaries import by_position
from lpp.analyze.drift.worst import worst_tokens"""

_CODE: Final = {
    DRIFT.name: "found.predictions_frame()",
    SITES.name: "found.sites_frame()",
    POSITIONS.name: "by_position(found.tokens, found.pair.groups)",
    HISTOGRAM.name: "kl_histogram(found.tokens)",
    TOKENS.name: "worst_tokens(found)",
}
"""Python that gives the rows of each table; `found` is a `Drift`."""

FEW_SITES: Final = 6
"""Most sites that text shows without --all."""

IN_SHORT: Final = ("kl", "ear", "flips", "top10", "next_logprob", "log_perplexity", "entropy")
"""Numbers of the predictions that text shows without --all."""


def drift_page(
    frames: Frames,
    where: tuple[str, str, str],
    settings: DiffSettings,
    runs: RunStyles,
    *,
    verdicts: Sequence[Verdict] = (),
    items: Sequence[Section] = (),
) -> Page:
    """The page of one comparison. frames: of `drift.frames.frames_of`, and rows of items.

    where: the store and both runs, as the command takes them; settings: those that repeat it.
    items: sections about the items of tasks that both runs answered.
    """
    fact = frames[FACTS].row(0, named=True)
    pair = fact["run_a"], fact["run_b"]
    again = ["lpp-analyze", "diff", *where, *as_words(settings)]
    named = ", ".join(map(repr, where))
    call = f"{_IMPORTS}\n\nfound = diff({named}, {as_python(settings)})"
    same = ["run_a", "run_b", "cluster", "n_prompts", "first_position"]
    if fact["seed"] is None:
        same.append("n_drawn")

    def table(shape: Shape, frame: pl.DataFrame, **more: Any) -> Table:
        rows = frame.drop(same, strict=False)
        code = f"{call}\n{_CODE[shape.name]}"
        missing = None if len(rows) else "Nothing to show"
        return shaped(shape, rows, code=code, missing=missing, **more)

    predictions, sites = frames[DRIFT.name], frames[SITES.name]
    shown = {name: change for name, change in SITE_CHANGES.items() if sites[name].count()}
    few: dict[str, dict[str, Any]] = {
        DRIFT.name: {"short": predictions.filter(pl.col("number").is_in(IN_SHORT))},
        SITES.name: {"short": ends(sites) if len(sites) > FEW_SITES else None},
    }
    tables = {
        shape.name: table(shape, frames[shape.name], **few.get(shape.name, {"brief": False}))
        for shape in (DRIFT, POSITIONS, HISTOGRAM, SITES)
    }
    drawn = list(charts(frames, tables, runs))
    by_kl = fact["no_logits"] is None
    where_changed = "KL(A || B) is largest" if by_kl else "ln p(next) changed most"
    gate = {pair[1]: verdicts} if verdicts else {}
    start, *notes = what_was_compared(fact)
    sections = (
        *([gate_page.gate_section(gate)] if gate else []),
        Section(
            "predictions",
            "Predictions",
            charts=tuple(chart for chart in drawn if chart.section == "predictions"),
            tables=tuple(tables.values())[:3],
            notes=tuple(_ties(fact)),
            more=_legend(PREDICTIONS, {*predictions["number"]}),
        ),
        Section(
            "sites",
            "Hidden states",
            "±: standard error over prompts, paired.",
            charts=tuple(chart for chart in drawn if chart.section == "sites"),
            tables=(tables[SITES.name],),
            more=_legend(shown, fact["metrics"]),
        ),
        Section(
            "tokens",
            f"Where {where_changed}",
            "at: prompt and position; A and B: the most likely next token of each, p: its "
            "probability.",
            tables=(
                table(
                    TOKENS,
                    shown_words(frames[TOKENS.name]),
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
        about=say(f"From {run(pair[0])} to {run(pair[1])}"),
        opening=opening(
            frames, [pair], start, gate_page.conclusion(gate) + conclusion(frames, pair)
        ),
        findings=tuple((line,) for line in notes),
        further=((f"{capital(fact['arithmetic'])}.",),) if fact["arithmetic"] else (),
        sections=sections,
        meanings=MEANING,
        runs=runs,
        next=(f"lpp-sql {shlex.quote(where[0])} --run drift_tokens",),
        data={**frames, "gate": gate_page.gate_rows(gate)},
        store=where[0],
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
        yield f"Predictions are of {fact['n_compared']:,} tokens, drawn with seed {fact['seed']}."
    if (field := fact["cluster"]) is not None:
        yield f"Errors are over clusters: the prompts that have the same {field}."
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
        yield (f"Ties between equal logits decide {', '.join(tied)} of tokens.",)
