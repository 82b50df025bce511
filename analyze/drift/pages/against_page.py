"""What changed from one run to each of several, as a page."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.drift.against import Against, Comparison, in_order, order_of, sites_frame
from lpp.analyze.drift.gate import gate_page
from lpp.analyze.drift.pages.drift_page_parts import conclusion, opening
from lpp.analyze.drift.pages.drift_page_tables import DRIFT, SITES, numbers_of, shaped
from lpp.analyze.pages.page import Chart, Page, Section, drawing
from lpp.analyze.pages.table import Table, table_of
from lpp.analyze.pages.words import Run, Sentence, number
from lpp.analyze.quantities.drift import PREDICTIONS, SITE_CHANGES
from lpp.analyze.quantities.flags import MEANING

STRIP: Final = 34
"""Columns of the depth picture: one for each site of a model of 32 blocks."""

DISTANCE: Final = "relative_distance"

_PREDICTIONS: Final = ("kl", "flips", "log_perplexity")
_SITE: Final = (DISTANCE, "cka")
"""Numbers of a row: of the predictions, and of the deepest site."""

_HEIGHTS: Final = "▁▂▃▄▅▆▇█"
_ORDERS: Final = {
    "kl": "the smallest KL first",
    "flips": "the fewest flips first, as not every run has a KL",
}
_LABELS: Final = {"kl": "KL", "log_perplexity": "ln PPL", "n_prompts": "prompts"}
_LEAD: Final = "Distance and CKA: at {site}. ±: standard error over prompts."
_MEANINGS: Final = (
    "X is the run of the row. KL: KL(A || X), nats for each token. flips: share of the tokens "
    "whose most likely next token differs. ln PPL: ln PPL(X) - ln PPL(A). distance: |x - a| / |a|."
)
_STRIP: Final = "A column for {each}, {first} to {last}; a full one is {most}."
_STRIPS: Final = (
    "Height: relative distance; a full column is the largest of all. Blank: exactly 0; -: no "
    "number."
)


def against_page(several: Against, comparisons: Sequence[Comparison], store: str = "") -> Page:
    """The page of `several`. comparisons: one for each of its pairs, in any order."""
    ordered = in_order(comparisons)
    base = several.base.run.id
    frames = {
        name: pl.concat([c.frames[name] for c in ordered]) for name in (DRIFT.name, SITES.name)
    }
    pairs = [(c.a, c.b) for c in ordered]
    gate = {c.b: c.verdicts for c in ordered if c.verdicts}
    undecided = {run: why for run, why in several.undecided.items() if gate}
    shown = (base, *(c.b for c in ordered), *undecided)
    runs = RunStyles({run: several.names[run] for run in shown})
    rows = _rows(ordered)
    deepest = " or ".join(dict.fromkeys(c.sites[-1].site for c in ordered))
    sites = shaped(SITES, frames[SITES.name], brief=False)
    setting, *notes = _setting_and_notes(ordered)
    sections = (
        *([gate_page.gate_section(gate, undecided)] if gate else []),
        Section(
            *("runs", "Every run", _LEAD.format(site=deepest)),
            tables=(_table(rows),),
            more=_MEANINGS,
        ),
        Section(
            "depth",
            "Where in depth",
            _reading(ordered),
            (
                Chart(
                    "drift-grid",
                    "depth",
                    sites,
                    "Distance in depth",
                    "Relative distance of every site, with its number; runs in order.",
                    partial(drawing("drift_grid_chart"), sites_frame(ordered), runs=runs),
                    opens=True,
                ),
            ),
            (_strips(ordered), sites),
            more=_STRIPS,
        ),
        Section(
            "predictions",
            "What changed in the predictions",
            tables=(shaped(DRIFT, frames[DRIFT.name], brief=False),),
            brief=False,
        ),
        Section(
            "left-out",
            "Left out",
            notes=tuple((Run(run), f": {why}.") for run, why in several.left_out.items()),
            brief=False,
        ),
    )
    sentence = conclusion(frames, pairs[0]) if len(pairs) == 1 else _ends(ordered, frames)
    return Page(
        title="Drift from one model to several",
        about=("From ", Run(base), f" to {_count(ordered)}"),
        opening=opening(
            frames, pairs, setting, (*gate_page.conclusion(gate, undecided), *sentence)
        ),
        findings=tuple(notes),
        sections=sections,
        meanings=MEANING,
        runs=runs,
        next=(f"lpp-sql {shlex.quote(store)} --run drift",) if store else (),
        document={
            "against": base,
            "names": dict(several.names),
            "comparisons": [
                {**c.document, "gate": gate_page.documents(c.verdicts)} for c in ordered
            ],
            "left_out": [
                {"run": run, "why": why, "undecided": run in several.undecided}
                for run, why in several.left_out.items()
            ],
        },
        csv=rows,
        store=store,
    )


def _ends(ordered: Sequence[Comparison], frames: Mapping[str, pl.DataFrame]) -> Sentence:
    """Which run changed least, and which most."""
    name = order_of(ordered)
    values = [numbers_of(frames, (c.a, c.b)).get(name, {}).get("mean") for c in ordered]
    least, most = (
        f"KL {number(value)} nats a token"
        if name == "kl"
        else f"{number(100 * (value or 0.0))} % of the most likely next tokens"
        for value in (values[0], values[-1])
    )
    first, last = ordered[0], ordered[-1]
    return (
        *(f"Of {len(ordered)} runs ", Run(first.b), " differs least from ", Run(first.a)),
        *(f", by {least}, and ", Run(last.b), f" most, by {most}."),
    )


def _setting_and_notes(ordered: Sequence[Comparison]) -> Iterator[Any]:
    """The setting; then a sentence for each fact that a reader has to know."""
    sizes = sorted({c.n_prompts for c in ordered})
    first = ordered[0].document["first_position"]
    start = f", positions from {first} on" if first else ""
    order = f", {_ORDERS[order_of(ordered)]}" if len(ordered) > 1 else ""
    counts = {c.n_tokens for c in ordered}
    drawn = next((c.document["drawn"] for c in ordered if c.document["drawn"]), None)
    over = f" over the first {sizes[0]} prompts" if len(sizes) == 1 else ""
    of = f", {max(counts):,} tokens each" if len(counts) == 1 and not drawn else ""
    yield f"{_count(ordered)}{over}{of}{start}{order}"
    if len(sizes) > 1:
        yield (
            f"Runs share {sizes[0]} to {sizes[-1]} prompts with A, so rows are of different "
            f"tokens. --prompts {sizes[0]} compares all runs over the same tokens.",
        )
    if drawn:
        yield (f"Predictions: of {max(counts):,} tokens each, drawn with seed {drawn['seed']}.",)
    runs_by_note: dict[str, list[str]] = {}
    for comparison in ordered:
        same = ["Every difference is exactly 0."] if comparison.is_nothing else []
        missing = [f"No KL: {comparison.no_logits}"] if comparison.no_logits else []
        for note in (*same, *missing, *comparison.document["notes"]):
            runs_by_note.setdefault(note, []).append(comparison.b)
    for note, of_runs in runs_by_note.items():
        named = [part for run in of_runs for part in (", ", Run(run))]
        yield (*named[1:], f": {note}")


def _count(ordered: Sequence[Comparison]) -> str:
    return f"{len(ordered)} run{'s' * (len(ordered) > 1)}"


# tables


def _rows(ordered: Sequence[Comparison]) -> pl.DataFrame:
    """A row for each run: numbers of the predictions, and those of its deepest site."""
    rows = []
    for comparison in ordered:
        numbers = {name: comparison.predictions[name] for name in _PREDICTIONS}
        last = comparison.sites[-1]
        rows.append(
            {
                **{"run": comparison.b, "n_prompts": comparison.n_prompts},
                **{
                    f"{name}{end}": value
                    for name, summary in numbers.items()
                    for end, value in _parts(summary.mean, summary)
                },
                "site": last.site,
                **{
                    f"{name}{end}": value
                    for name in _SITE
                    for end, value in _parts(last[name].value, last[name])
                },
                "flags": comparison.document["sites"][-1]["flags"],
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)


def _parts(value: float | None, error: Any) -> Iterator[tuple[str, float | None]]:
    yield "", value
    for name in ("stderr", "ci_low", "ci_high"):
        yield f"_{name}", getattr(error, name)


def _table(rows: pl.DataFrame) -> Table:
    return table_of(
        "against",
        "Every run against one",
        rows,
        {**PREDICTIONS, **SITE_CHANGES},
        first=["run", "n_prompts", *_PREDICTIONS, *_SITE, "flags"],
        labels=_LABELS,
        key=("run",),
    )


def _strips(ordered: Sequence[Comparison]) -> Table:
    """A strip for each run: distance at each site, on one scale."""
    groups, most = _groups(ordered), _most(ordered)
    rows = []
    for comparison in ordered:
        of = _distances(comparison)
        columns = [[of[site] for site in group if site in of] for group in groups]
        largest = max(of, key=lambda site: of[site], default=None)
        rows.append(
            {
                "run": comparison.b,
                "strip": "".join(_column(max(cell, default=None), most) for cell in columns),
                "largest": None if largest is None else of[largest],
                "at": largest,
            }
        )
    return table_of(
        "strips",
        "Distance in depth",
        pl.DataFrame(rows, infer_schema_length=None),
        {},
        labels={"strip": "distance in depth"},
        key=("run",),
        folded=True,
    )


def _reading(ordered: Sequence[Comparison]) -> str:
    """How to read the strips."""
    groups = _groups(ordered)
    step = len(groups[0])
    each = f"the largest of {step} sites" if step > 1 else "each site"
    most = number(_most(ordered))
    return _STRIP.format(each=each, first=groups[0][0], last=groups[-1][-1], most=most)


def _groups(ordered: Sequence[Comparison]) -> list[list[str]]:
    """Every site that is compared, in depth order, a few for each column of a strip."""
    depths = {site.site: site.depth for c in ordered for site in c.sites}
    sites = sorted(depths, key=lambda site: (depths[site], site == "final"))
    step = -(-len(sites) // STRIP)
    return [sites[first : first + step] for first in range(0, len(sites), step)]


def _most(ordered: Sequence[Comparison]) -> float:
    """The largest distance of all."""
    return max((distance for c in ordered for distance in _distances(c).values()), default=0.0)


def _distances(comparison: Comparison) -> dict[str, float]:
    """The relative distance of each site that has one."""
    return {
        site.site: site.relative_distance.value
        for site in comparison.sites
        if site.relative_distance.value is not None
    }


def _column(value: float | None, most: float) -> str:
    """One character of a strip.

    >>> [_column(value, 0.8) for value in (0.8, 0.41, 0.001, 0.0, None)]
    ['█', '▅', '▁', ' ', '-']
    """
    if value is None:
        return "-"
    if value == 0:
        return " "
    return _HEIGHTS[min(int(len(_HEIGHTS) * value / most), len(_HEIGHTS) - 1)]
