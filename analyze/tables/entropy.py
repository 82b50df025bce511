"""The entropy table: mean next-token entropy after each prefix, over prompts.

h_i(L) is the entropy of the next-token distribution at the last token of the prefix, position
min(L, T_i) - 1. For a text shorter than the prefix this is the end of the text; `short_prompts`
counts such texts.
"""

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from lpp.analyze.engine.cache import Cache, groups_name
from lpp.analyze.numerics.jackknife import clustered_error, floor_bias, student
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.quantities.profiles import ENTROPY, ENTROPY_NORM
from lpp.analyze.quantities.tables import ADDED, columns_of, frame_schema, shared
from lpp.analyze.questions import Selection
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.groups import Clusters, Groups, Integers
from lpp.analyze.runs.incomplete import warn_of_incomplete
from lpp.analyze.runs.keys import NO_STATISTICS, RunView, Url, views
from lpp.analyze.runs.rows.token_files import read_tokens
from lpp.analyze.tables.lazy import LazySource, scan
from lpp.sql.schema.columns import ERRORS, Column, Merging, Table, number_columns, values_first
from lpp.store.errors import ErrorKind, InputError

TABLE: Final = Table(
    "entropy",
    "entropy of the next token after one prefix",
    "lpp-analyze profile STORE",
    ("run", "context", "prefix", "n_prompts"),
    (
        *shared("run context prefix n_prompts"),
        *values_first(columns_of(ENTROPY, ERRORS), columns_of(ENTROPY_NORM, ERRORS)),
        *shared("n_quarantined n_duplicates"),
        Column("short_prompts", "INTEGER", "prompts shorter than the prefix", "prompts"),
        *number_columns("distinct_prefixes", "distinct prefixes / prompts", "share"),
        *shared("cluster"),
    ),
    merging=Merging(),
)

ENTROPY_SCHEMA: Final = frame_schema(TABLE.columns, without=ADDED)
"""Entropy in nats, and divided by ln V, where V is the width of the logits: means over prompts,
with their standard errors and intervals, which are null for a single prompt. Prompts that capture
set aside, n_quarantined of the first n_prompts, are not in any column.

n_duplicates: prompts whose token ids equal those of another prompt, at full length. short_prompts:
prompts of fewer tokens than the prefix. distinct_prefixes: number of distinct prefixes divided by
the number of prompts.
"""

WITHOUT = pl.Schema({"entropy_norm_without": pl.List(pl.Float64)})
"""(G,) `entropy_norm` without each group of prompts; empty if one of these values is missing."""

BIAS = pl.Schema({"floor_bias": pl.Float64})
"""Bias of the least `entropy_norm` of the context's prefixes (`jackknife.floor_bias`), the same for
each of them; NaN if it was not computed."""

_VERSION: Final = 1
"""Version of the arithmetic of all these columns, for the rows that are kept."""

_KEPT: Final = pl.Schema(
    {"version": pl.Int32(), "groups": pl.String(), **ENTROPY_SCHEMA, **WITHOUT, **BIAS}
)

SPARSE = "logit statistics at its own prefixes only (--logit-positions schedule)"
"""Why a run with ranks has no entropy."""


def scan_entropy(
    url: Url, *, contexts: Sequence[int] | None = None, prompts: Sequence[int] | None = None
) -> pl.LazyFrame:
    """Entropy by prefix of the store at `url`, computed as it is collected: columns
    `ENTROPY_SCHEMA`.

    contexts, prompts: as for `scan_spectra`. The entropy of a prefix is null if the logit
    statistics at its end were not captured. Warns about each incomplete run. Raises FormatError if
    `url` is not a store or was altered; InputError if `contexts` names one whose prefixes were not
    captured.
    """
    selection = Selection(contexts=contexts, prompts=prompts)
    all_views = views(url)
    warn_of_incomplete(all_views)
    for view in all_views if contexts is not None else ():
        for context in view.contexts(contexts):
            check_captured(view, context)

    return scan(
        LazySource(
            name="LPP ENTROPY",
            schema=ENTROPY_SCHEMA,
            opened=lambda: views(url),
            keys=lambda all_views: prefix_keys(all_views, selection),
            compute=run_frames,
        )
    )


def run_frames(
    views: Iterable[RunView],
    keys: pl.DataFrame,
    columns: frozenset[str],
    *,
    groups: Mapping[str, Groups] = MappingProxyType({}),
) -> Iterator[pl.DataFrame]:
    """The rows of `keys` in one frame: `ENTROPY_SCHEMA`; `WITHOUT` and `BIAS` if there are
    `groups`.

    columns: those to compute; the others are null. groups: of the jackknife, by run. Errors of
    means are those of clusters where these are given.
    """
    runs = {view.run.id: view for view in views}
    rows = [
        row
        for run, of_run in itertools.groupby(keys.select(TABLE.key).iter_rows(), key=itemgetter(0))
        for row in _rows(runs[run], list(of_run), columns, groups.get(run, 0))
    ]
    whole = pl.DataFrame(rows, schema={**ENTROPY_SCHEMA, **WITHOUT, **BIAS}, orient="row")
    yield whole if groups else whole.select(*ENTROPY_SCHEMA)


def without_groups(frame: pl.DataFrame) -> pl.DataFrame:
    """The column `WITHOUT` of `frame` in the form of `jackknife.without_groups`."""
    (name,) = WITHOUT
    values = frame.select(
        *TABLE.key, pl.lit("entropy_norm").alias("metric"), pl.col(name).alias("value")
    )
    return values.filter(pl.col("value").list.len() > 0)


def prefix_keys(views: Iterable[RunView], selection: Selection) -> pl.DataFrame:
    """The key columns of every row, in order of run, context, prefix, prompts."""
    keys = [
        (view.run.id, context, prefix, size)
        for view in views
        for context in view.contexts(selection.contexts)
        for prefix in view.prefixes(context)
        for size in view.sizes(selection.prompts)
    ]
    return pl.DataFrame(
        keys, schema={name: ENTROPY_SCHEMA[name] for name in TABLE.key}, orient="row"
    )


def uncaptured(view: RunView, prefixes: Sequence[int]) -> list[int]:
    """The `prefixes` at whose end some prompt has no logit statistics."""
    plan = view.run.plan
    if plan.logit_positions == "all":
        return []
    if plan.logit_positions == "none":
        return list(prefixes)
    # prompts shorter than the prefix were captured at their end
    longest = int(view.lengths.max(initial=0))
    return [prefix for prefix in prefixes if prefix not in plan.prefixes and prefix < longest]


def uncaptured_lines(views: Iterable[RunView], contexts: Sequence[int] | None) -> list[str]:
    """One line for each run that has no entropy at some of `contexts`, with the reason."""
    lines = []
    for view in views:
        missing = [c for c in view.contexts(contexts) if uncaptured(view, view.prefixes(c))]
        if missing:
            why = why_uncaptured(view)
            lines.append(f"{view.run.id}: no entropy at context {_listed(missing)}: {why}")
    return lines


def why_uncaptured(view: RunView) -> str:
    """Why a run has no logit statistics at some prefixes."""
    return NO_STATISTICS if view.run.plan.logit_positions == "none" else SPARSE


def check_captured(view: RunView, context: int) -> None:
    """Raise InputError unless the statistics of every prefix of `context` were captured."""
    missing = uncaptured(view, view.prefixes(context))
    if missing:
        plan = view.run.plan
        if plan.logit_positions == "none":
            raise InputError(f"run {view.run.id} has {NO_STATISTICS}.", kind=ErrorKind.NOT_FOUND)
        raise InputError(
            f"run {view.run.id} has no logit statistics at prefixes {_listed(missing)} of "
            f"context {context}: --logit-positions schedule captured {_listed(plan.prefixes)}. "
            "Ask for its own context, or capture again with --logit-positions all.",
            kind=ErrorKind.NOT_FOUND,
        )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)


Key = tuple[str, int, int, int]
"""Run, context, prefix, number of prompts."""


def _rows(
    view: RunView, keys: Sequence[Key], columns: frozenset[str], groups: Groups
) -> Iterator[tuple[Any, ...]]:
    """The rows of one run: `ENTROPY_SCHEMA`, `WITHOUT`, `BIAS`. Not frames: slow if small."""
    if not groups or not columns >= {*ENTROPY_SCHEMA}:
        yield from _computed(view, keys, columns, groups)
        return
    cache = Cache(view.run.path.parent.parent, view.run)
    about = (_VERSION, groups_name(groups))
    kept = {row[2:6]: row[2:] for row in cache.entropies(_KEPT) if row[:2] == about}
    if all(key in kept for key in keys):
        view.run.tokens_files()  # a damaged one is refused, as if it were read
        yield from (kept[key] for key in keys)
        return
    rows = [*_computed(view, keys, columns, groups)]  # all: `BIAS` is of all prefixes
    cache.keep_entropies([(*about, *row) for row in rows if row[:4] not in kept], _KEPT)
    yield from rows


def _computed(
    view: RunView, keys: Sequence[Key], columns: frozenset[str], groups: Groups
) -> Iterator[tuple[Any, ...]]:
    """`_rows` from the token statistics."""
    cells = list(dict.fromkeys(key[2:] for key in keys))
    means = columns & {name for name in ENTROPY_SCHEMA.names() if name.startswith("entropy")}
    nats = _Nats.of(view, {prefix for prefix, _ in cells}, read=bool(groups or means))
    ends = {cell: nats.numbers(*cell, groups) for cell in cells}
    alike = _distinct(view, cells) if "distinct_prefixes" in columns else dict.fromkeys(cells)
    counts = {size: (view.quarantined(size), view.duplicates(size)) for _, size in cells}
    biases = _biases(nats, keys, groups) if groups else {}
    for run, context, prefix, size in keys:
        *estimates, short, without = ends[prefix, size]
        yield (
            *(run, context, prefix, size, *estimates, *counts[size], short, alike[prefix, size]),
            *(without, biases.get((context, size))),
        )


@dataclass(frozen=True, slots=True)
class _Nats:
    """Entropies of the prompts that are not set aside."""

    most: float
    """ln V."""
    analysed: npt.NDArray[np.bool_]
    """(P,) whether each prompt is analysed; those that were set aside are not."""
    by_prefix: Mapping[int, tuple[Floats, npt.NDArray[np.bool_]]]
    """For each prefix, of the analysed prompts: nats, and whether the text is shorter."""

    @classmethod
    def of(cls, view: RunView, prefixes: Collection[int], *, read: bool) -> Self:
        """Entropies of a run. read: whether to read them; else they are NaN."""
        analysed, lengths = view.lengths > 0, view.prompts["n_tokens"].to_numpy()
        nats = _entropies(view, lengths, sorted(prefixes), read=read)
        return cls(
            math.log(view.run.plan.model.logits_width or math.nan),
            analysed,
            {
                prefix: (row[analysed], (lengths < prefix)[analysed])
                for prefix, row in zip(sorted(prefixes), nats, strict=True)
            },
        )

    def numbers(self, prefix: int, size: int, groups: Groups) -> tuple[Any, ...]:
        """Means and errors over the first `size` prompts in the order of `ENTROPY_SCHEMA`, then
        short_prompts and `WITHOUT`.
        """
        nats, short = self.by_prefix[prefix]
        analysed = self.analysed[:size]
        count = int(analysed.sum())
        mean, stderr, freedom = _mean(nats[:count], _clusters(groups, analysed))
        estimates = [
            student(mean / unit, stderr / unit, freedom, (0.0, self.most / unit))
            for unit in (1.0, self.most)
        ]
        parts = Cell(size, prefix).parts(groups)
        return (
            *(estimate.value for estimate in estimates),
            *(end for estimate in estimates for end in estimate[1:4]),
            int(short[:count].sum()),
            _without(nats[:count] / self.most, self.analysed, parts),
        )


def _biases(nats: _Nats, keys: Sequence[Key], groups: Groups) -> dict[tuple[int, int], float]:
    """`BIAS` by context and number of prompts."""
    prefixes: dict[tuple[int, int], list[int]] = {}
    for _, context, prefix, size in keys:
        prefixes.setdefault((context, size), []).append(prefix)
    biases = {}
    for (context, size), of_setting in prefixes.items():
        analysed = nats.analysed[:size]
        values = [nats.by_prefix[prefix][0][: analysed.sum()] for prefix in of_setting]
        clusters = _clusters(groups, analysed)
        alone = np.arange(int(analysed.sum())) if clusters is None else clusters
        biases[context, size] = floor_bias(np.stack(values) / nats.most, alone)
    return biases


def _clusters(groups: Groups, analysed: npt.NDArray[np.bool_]) -> Integers | None:
    """Cluster of each of the first prompts that is `analysed`; None without clusters."""
    return groups.of[: len(analysed)][analysed] if isinstance(groups, Clusters) else None


def _mean(nats: Floats, clusters: Integers | None) -> tuple[float, float, int]:
    """(mean of (P,) values, its standard error, degrees of freedom); NaN if any value is missing,
    or there is none.
    """
    if not len(nats):
        return math.nan, math.nan, 0
    if clusters is not None:
        return float(nats.mean()), *clustered_error(nats, clusters)
    error = float(nats.std(ddof=1)) / math.sqrt(len(nats)) if len(nats) > 1 else math.nan
    return float(nats.mean()), error, len(nats) - 1


def _without(
    values: npt.NDArray[np.float64], analysed: npt.NDArray[np.bool_], parts: Sequence[Cell]
) -> list[float]:
    """Means of `values` without each group of prompts; empty if one of them does not exist.

    values: of the analysed prompts; analysed: (P,) which those are.
    """
    rests = [values[part.stays[analysed[: part.n_prompts]]] for part in parts]
    if not all(len(rest) and np.isfinite(rest).all() for rest in rests):
        return []
    return [float(rest.mean()) for rest in rests]


def _entropies(
    view: RunView, lengths: npt.NDArray[np.int32], prefixes: Sequence[int], *, read: bool
) -> npt.NDArray[np.float64]:
    """(prefixes, P) entropy in nats at the end of each prefix of each prompt; NaN if not captured.

    Reads one shard at a time and keeps 8 bytes for each prompt and prefix.
    """
    entropies = np.full((len(prefixes), len(lengths)), np.nan)
    for shard, file in zip(view.run.shards, view.run.tokens_files(), strict=True) if read else ():
        here = lengths[shard.first_prompt : shard.end_prompt]
        if len(here) == 0:  # after a missing shard
            break
        tokens = read_tokens(file, ["prompt_id", "position", "entropy"])
        prompt_id, position = (tokens[name].to_numpy() for name in ("prompt_id", "position"))
        nats = tokens["entropy"].cast(pl.Float64).to_numpy()
        starts = np.cumsum(here) - here
        prompts = shard.first_prompt + np.arange(len(here))
        for row, prefix in zip(entropies, prefixes, strict=True):
            last = np.minimum(here, prefix) - 1
            at = np.minimum(starts + last, len(nats) - 1)
            right = (prompt_id[at] == prompts) & (position[at] == last)
            row[prompts] = np.where(right, nats[at], np.nan)
    return entropies


def _distinct(
    view: RunView, cells: Iterable[tuple[int, int]]
) -> dict[tuple[int, int], float | None]:
    """Share of distinct token prefixes for each prefix and number of prompts."""
    width = 4  # bytes of an int32 token id
    token_ids = view.prompts.filter(pl.Series(view.lengths > 0))["token_ids"]
    prompts = [ids.cast(pl.Int32).to_numpy().tobytes() for ids in token_ids]
    shares = {}
    for prefix, size in cells:
        included = prompts[: int(np.count_nonzero(view.lengths[:size]))]
        distinct = len({ids[: width * prefix] for ids in included})
        shares[prefix, size] = distinct / len(included) if included else None
    return shares
