"""Compute a sample of the numbers under `analysis/` again, and compare.

The checksum in the name of a kept file finds accidents. Whoever sent a store could have written
other numbers with fitting checksums; only computing them again shows that. Numbers of sites are
drawn: spectra, metrics that need rows, and comparisons of two runs. Not drawn: the values that a
comparison keeps for each token, whose last bits depend on the machine and on the whole tile of
logits.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import numpy as np

from lpp.analyze.drift.kept import KeptDrift
from lpp.analyze.drift.pair import Pair, pair_of
from lpp.analyze.drift.site_numbers import CROSS, PairRows
from lpp.analyze.drift.sites import common_sites
from lpp.analyze.engine.cache import Cache
from lpp.analyze.engine.row_values import RowValues
from lpp.analyze.engine.site_spectra import site_summaries
from lpp.analyze.engine.stored_moments import holds
from lpp.analyze.engine.workers import Workers
from lpp.analyze.metrics.registry import METRICS
from lpp.analyze.metrics.summary import Demand, Summary
from lpp.analyze.numerics.spectrum import Spectrum
from lpp.analyze.quantities.drift import OF_ROWS
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.groups import GROUPS, Clusters, Spans, is_sound, spans
from lpp.analyze.runs.keys import RunView, Url, views
from lpp.analyze.runs.rows.site_reader import SiteReader
from lpp.store.errors import InputError
from lpp.store.format.keys import ANALYSIS_KEY
from lpp.store.objects.locate import objects_at
from lpp.store.progress import SILENT, Progress

ALIKE: Final = 1e-9
"""Largest difference of two right computations, relative to the largest value: the libraries of two
machines multiply in another order."""

Kept = Summary | float


@dataclass(slots=True)
class Recomputed:
    """Result of `recompute`."""

    compared: int = 0
    n_kept: int = 0
    """Kept numbers, of which those were drawn."""
    other_digits: int = 0
    """Numbers that differ by `ALIKE` at most: of other libraries or another processor."""
    problems: list[str] = field(default_factory=list)
    """A line for each other number that differs."""


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One kept number. of: a run, or a pair. metric: empty for a summary."""

    of: RunView | Pair
    site: str
    cell: Cell
    metric: str
    value: Kept


def recompute(url: Url, count: int, *, progress: Progress = SILENT) -> Recomputed:
    """Compute `count` of the kept numbers of the store at `url` again, drawn at random.

    progress: advances by one for each number. Reads a site once for all its drawn numbers. Raises
    FormatError for altered bytes of the runs.
    """
    numbers = list(_kept_numbers(url))
    drawn = random.SystemRandom().sample(numbers, min(count, len(numbers)))
    result = Recomputed(compared=len(drawn), n_kept=len(numbers))
    groups: dict[tuple[int, str], list[_Drawn]] = defaultdict(list)
    for number in drawn:
        groups[id(number.of), number.site].append(number)
    with Workers() as workers:
        for group in groups.values():
            of, site = group[0].of, group[0].site
            again = (_of_run if isinstance(of, RunView) else _of_pair)(of, site, group, workers)
            for number in group:
                _compare(number, again[number.cell, number.metric], result)
                progress.advance()
            progress.note(f"{site} of {_name(of)}")
    return result


def _kept_numbers(url: Url) -> Iterator[_Drawn]:
    """Every kept number that a command would use."""
    runs = views(url)
    for view in runs:
        root = view.run.path.parent.parent
        cache = Cache(root, view.run)
        for site in view.run.activation_sites:
            for cell, summary in cache.summaries(site, leading=True).items():
                if _exists(view, cell):
                    yield _Drawn(view, site, cell, "", summary)
            for (cell, metric), value in cache.values(site).items():
                if _exists(view, cell) and view.run.plan.keeps_rows:
                    yield _Drawn(view, site, cell, metric, value)
        folders = objects_at(root).entries(f"{ANALYSIS_KEY}/{view.run.id}")
        if not any(entry.name.startswith("drift-") for entry in folders):
            continue
        for other in runs:
            try:
                pair = pair_of(view.run, other.run)
            except InputError:  # nothing to compare
                continue
            files = KeptDrift(pair)
            for site in common_sites(pair):
                for (cell, name), value in files.values(site).items():
                    if name in (*OF_ROWS, CROSS) and _exists(view, cell) and _exists(other, cell):
                        yield _Drawn(pair, site, cell, name, value)


def _exists(view: RunView, cell: Cell) -> bool:
    """Whether the run has this cell; a file that was not written here may hold others."""
    inside = 0 < cell.n_prompts <= view.run.n_prompts
    inside &= 0 <= cell.first_position < cell.prefix <= view.run.plan.context
    if not inside or not is_sound(cell.excluded, cell.n_prompts):
        return False
    return view.run.plan.keeps_rows or holds(view.run, cell)


def _of_run(
    view: Any, site: str, drawn: Sequence[_Drawn], workers: Workers
) -> Mapping[tuple[Cell, str], Kept]:
    reader = SiteReader(view.run, site, view.lengths)
    summaries: dict[Cell, Demand] = {}
    metrics: dict[Cell, list[Any]] = defaultdict(list)
    for number in drawn:
        if isinstance(number.value, Summary):
            summaries[number.cell] = _demand(number.value)
        else:
            metrics[number.cell].append(METRICS[number.metric])
    rows = RowValues(reader, metrics, workers) if metrics else None
    computed: dict[tuple[Cell, str], Kept] = {
        (cell, ""): summary
        for cell, summary in site_summaries(reader, summaries, workers, rows).items()
    }
    return computed | (dict(rows.finish()) if rows else {})


def _demand(summary: Summary) -> Demand:
    """The demand that gives the parts of `summary`."""
    both = {"covariance": summary.covariance, "correlation": summary.correlation}
    solved = (name for name, s in both.items() if s and s.eigenvalues is not None)
    correlation, leading = summary.correlation is not None, summary.leading is not None
    return Demand(frozenset(solved), correlation, leading)  # type: ignore[arg-type]


def _of_pair(
    pair: Any, site: str, drawn: Sequence[_Drawn], workers: Workers
) -> Mapping[tuple[Cell, str], Kept]:
    computed: dict[tuple[Cell, str], Kept] = {}
    by_cell: dict[tuple[Cell, Spans], list[_Drawn]] = defaultdict(list)
    for number in drawn:
        usual = spans(GROUPS, number.cell.n_prompts)
        apart = () if number.cell.excluded in usual else number.cell.excluded
        by_cell[number.cell.whole, apart].append(number)
    for (cell, apart), group in by_cell.items():
        # a group of clusters, and all other prompts as a second one
        two = Clusters((~cell._replace(excluded=apart).stays).astype(np.int64))
        pair = replace(pair, groups=two if apart else GROUPS)
        values = frozenset(n.metric for n in group if n.cell == cell)
        errors = frozenset(n.metric for n in group if n.cell != cell)
        numbers = PairRows(pair=pair, site=site, cell=cell, values=values, errors=errors)
        computed |= numbers.compute(workers)
    return computed


def _compare(number: _Drawn, again: Kept, result: Recomputed) -> None:
    for name, kept, computed in _numbers(number, again):
        if _same_bits(kept, computed):
            continue
        largest = np.max(np.abs([*np.ravel(kept), *np.ravel(computed)]), initial=0.0)
        if np.shape(kept) == np.shape(computed) and np.allclose(
            kept, computed, rtol=0.0, atol=ALIKE * largest, equal_nan=True
        ):
            result.other_digits += 1
        else:
            shown = f"{_shown(kept)} is kept, {_shown(computed)} is computed"
            result.problems.append(
                f"{_name(number.of)}: {number.site}, {_words(number.cell)}: {name}: {shown}"
            )
        return


def _numbers(number: _Drawn, again: Any) -> Iterator[tuple[str, Any, Any]]:
    if not isinstance(number.value, Summary):
        yield number.metric, number.value, again
        return
    for matrix in ("covariance", "correlation"):
        kept, computed = (getattr(each, matrix) for each in (number.value, again))
        if kept is not None:
            for name in [each.name for each in fields(Spectrum)]:
                words = f"{name} of the {matrix}"
                if getattr(kept, name) is not None:
                    yield words, getattr(kept, name), getattr(computed, name)
    if (vectors := number.value.leading) is not None:
        yield "leading eigenvectors", vectors @ vectors.T, again.leading @ again.leading.T


def _same_bits(kept: Any, computed: Any) -> bool:
    a, b = (np.asarray(value, dtype=np.float64) for value in (kept, computed))
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=True)


def _shown(value: Any) -> str:
    flat = np.ravel(value)
    return f"{flat[0]:.10g}" if len(flat) == 1 else f"{float(flat.sum()):.10g} in all"


def _name(of: RunView | Pair) -> str:
    runs = [of.run] if isinstance(of, RunView) else [of.a.run, of.b.run]
    return " to ".join(run.id for run in runs)


def _words(cell: Cell) -> str:
    ends = ", ".join(f"{first} to {end - 1}" for first, end in cell.excluded)
    part = f", without prompts {ends}" if ends else ""
    return f"{cell.n_prompts} prompts, positions {cell.first_position} to {cell.prefix - 1}{part}"
