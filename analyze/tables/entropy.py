"""The entropy table: mean next-token entropy after each prefix, over prompts.

h_i(L) is the entropy of the next-token distribution at the last token of the prefix, position
min(L, T_i) - 1. For a text shorter than the prefix this is the end of the text; `short_prompts`
counts such texts.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

from lpp.analyze.numerics.jackknife import clustered_error, error_names, floor_bias, student
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.runs.cells import Cell
from lpp.analyze.runs.groups import Clusters, Groups, Integers
from lpp.analyze.runs.incomplete import warn_of_incomplete
from lpp.analyze.runs.keys import RunView, Url, views
from lpp.analyze.runs.select import Selection
from lpp.analyze.runs.token_files import read_tokens
from lpp.analyze.tables.lazy import Source, scan
from lpp.store.errors import ErrorKind, InputError

SCHEMA = pl.Schema(
    {
        "run": pl.String,
        "context": pl.Int32,
        "prefix": pl.Int32,
        "n_prompts": pl.Int32,
        "entropy": pl.Float64,
        "entropy_norm": pl.Float64,
        **{
            name: pl.Float64
            for metric in ("entropy", "entropy_norm")
            for name in error_names(metric)
        },
        "n_quarantined": pl.Int32,
        "n_duplicates": pl.Int32,
        "short_prompts": pl.Int32,
        "distinct_prefixes": pl.Float64,
    }
)
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

KEYS = tuple(SCHEMA)[:4]

SPARSE = "logit statistics at its own prefixes only (--logit-positions schedule)"
"""Why a run with ranks has no entropy."""


def scan_entropy(
    url: Url, *, contexts: Sequence[int] | None = None, prompts: Sequence[int] | None = None
) -> pl.LazyFrame:
    """Entropy by prefix of the store at `url`, computed as it is collected: columns `SCHEMA`.

    contexts, prompts: as for `scan_spectra`. The entropy of a prefix is null if the logit
    statistics at its end were not captured. Warns about each incomplete run. Raises FormatError if
    `url` is not a store or was altered; InputError if `contexts` names one whose prefixes were not
    captured.
    """
    selection = Selection(contexts=contexts, prompts=prompts)
    every = views(url)
    warn_of_incomplete(every)
    for view in every if contexts is not None else ():
        for context in view.contexts(contexts):
            check_captured(view, context)

    return scan(
        Source(
            name="LPP ENTROPY",
            schema=SCHEMA,
            opened=lambda: views(url),
            keys=lambda every: all_keys(every, selection),
            compute=frames,
        )
    )


def frames(
    views: Iterable[RunView],
    keys: pl.DataFrame,
    columns: frozenset[str],
    *,
    groups: Mapping[str, Groups] = MappingProxyType({}),
) -> Iterator[pl.DataFrame]:
    """The rows of `keys`, one frame per run: `SCHEMA`; `WITHOUT` and `BIAS` if there are `groups`.

    groups: of the jackknife, by run. Errors of means are those of clusters where these are given.
    """
    runs = {view.run.id: view for view in views}
    for (run,), of_run in keys.group_by("run", maintain_order=True):
        yield rows(runs[str(run)], of_run, columns, groups.get(str(run), 0))


def without_groups(found: pl.DataFrame) -> pl.DataFrame:
    """The column `WITHOUT` of `found` in the form of `jackknife.without_groups`."""
    (name,) = WITHOUT
    values = found.select(
        *KEYS, pl.lit("entropy_norm").alias("metric"), pl.col(name).alias("value")
    )
    return values.filter(pl.col("value").list.len() > 0)


def all_keys(views: Iterable[RunView], selection: Selection) -> pl.DataFrame:
    """The key columns of every row, in order of run, context, prefix, prompts."""
    found = [
        (view.run.id, context, prefix, size)
        for view in views
        for context in view.contexts(selection.contexts)
        for prefix in view.prefixes(context)
        for size in view.sizes(selection.prompts)
    ]
    return pl.DataFrame(found, schema={name: SCHEMA[name] for name in KEYS}, orient="row")


def uncaptured(view: RunView, prefixes: Sequence[int]) -> list[int]:
    """Those of `prefixes` at whose end some prompt has no logit statistics."""
    plan = view.run.plan
    if plan.logit_positions == "all":
        return []
    # prompts shorter than the prefix were captured at their end
    longest = int(view.lengths.max(initial=0))
    return [prefix for prefix in prefixes if prefix not in plan.prefixes and prefix < longest]


def uncaptured_lines(views: Iterable[RunView], contexts: Sequence[int] | None) -> list[str]:
    """One line for each run that has no entropy at some of `contexts`, with the reason."""
    lines = []
    for view in views:
        missing = [c for c in view.contexts(contexts) if uncaptured(view, view.prefixes(c))]
        if missing:
            lines.append(f"{view.run.id}: no entropy at context {_listed(missing)}: {SPARSE}")
    return lines


def check_captured(view: RunView, context: int) -> None:
    """Raise InputError unless the statistics of every prefix of `context` were captured."""
    missing = uncaptured(view, view.prefixes(context))
    if missing:
        plan = view.run.plan
        raise InputError(
            f"run {view.run.id} has no logit statistics at prefixes {_listed(missing)} of "
            f"context {context}: --logit-positions schedule captured {_listed(plan.prefixes)}. "
            "Ask for its own context, or capture again with --logit-positions all.",
            kind=ErrorKind.NOT_FOUND,
        )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)


def rows(
    view: RunView, keys: pl.DataFrame, columns: frozenset[str], groups: Groups = 0
) -> pl.DataFrame:
    """The rows of one run for `keys`; value columns that are not in `columns` are null."""
    cells = keys.select("prefix", "n_prompts").unique()
    cells = cells.with_columns(
        pl.Series(name, [count(size) for size in cells["n_prompts"]], dtype=pl.Int32)
        for name, count in (
            ("n_quarantined", view.quarantined),
            ("n_duplicates", view.duplicates),
        )
    )
    means = {name for name in SCHEMA.names() if name.startswith("entropy")}
    if groups or columns & {*means, "short_prompts"}:
        nats = _Nats.of(view, set(cells["prefix"]), read=bool(groups or columns & means))
        cells = _with_means(nats, cells, groups)
        keys = _with_bias(nats, keys, groups) if groups else keys
    if "distinct_prefixes" in columns:
        cells = cells.with_columns(_distinct(view, cells))
    frame = keys.join(cells, on=["prefix", "n_prompts"], how="left", maintain_order="left")
    absent = [name for name in SCHEMA.names() if name not in frame.columns]
    return frame.with_columns(
        pl.lit(None, dtype=SCHEMA[name]).alias(name) for name in absent
    ).select(*SCHEMA, *((*WITHOUT, *BIAS) if groups else ()))


@dataclass(frozen=True, slots=True)
class _Nats:
    """Entropies of the prompts that are not set aside."""

    most: float
    """ln V."""
    kept: npt.NDArray[np.bool_]
    """(P,) whether each prompt is not set aside."""
    by_prefix: Mapping[int, tuple[Floats, npt.NDArray[np.bool_]]]
    """For each prefix, of the prompts that are kept: nats, and whether the text is shorter."""

    @classmethod
    def of(cls, view: RunView, prefixes: Collection[int], *, read: bool) -> Self:
        """Those of a run. read: whether to read them; else they are NaN."""
        kept, lengths = view.lengths > 0, view.prompts["n_tokens"].to_numpy()
        nats = _entropies(view, lengths, sorted(prefixes), read=read)
        return cls(
            math.log(view.run.plan.model.logits_width),
            kept,
            {
                prefix: (row[kept], (lengths < prefix)[kept])
                for prefix, row in zip(sorted(prefixes), nats, strict=True)
            },
        )


def _with_bias(nats: _Nats, keys: pl.DataFrame, groups: Groups) -> pl.DataFrame:
    """Add `BIAS` to the key columns."""
    rows = []
    for setting, of_setting in keys.group_by("context", "n_prompts", maintain_order=True):
        kept = nats.kept[: int(setting[1])]
        values = [nats.by_prefix[prefix][0][: kept.sum()] for prefix in of_setting["prefix"]]
        clusters = _clusters(groups, kept)
        alone = np.arange(int(kept.sum())) if clusters is None else clusters
        rows.append((*setting, floor_bias(np.stack(values) / nats.most, alone)))
    schema = pl.Schema({"context": pl.Int32, "n_prompts": pl.Int32} | dict(BIAS))
    found = pl.DataFrame(rows, schema=schema, orient="row")
    return keys.join(found, on=["context", "n_prompts"], how="left", maintain_order="left")


def _with_means(every: _Nats, cells: pl.DataFrame, groups: Groups) -> pl.DataFrame:
    """Add entropy, entropy_norm, short_prompts and `WITHOUT` to `cells` (prefix, n_prompts)."""
    most, kept = every.most, every.kept
    counts = np.append(0, np.cumsum(kept))
    found = pl.DataFrame(
        [
            (prefix, size, *_mean(nats[:count], clusters), int(short[:count].sum()), without)
            for prefix, size in cells.select("prefix", "n_prompts").iter_rows()
            for count in (int(counts[size]),)
            for nats, short in (every.by_prefix.get(prefix, _NO_PROMPTS),)
            for clusters in (_clusters(groups, kept[:size]),)
            for without in (_without(nats[:count] / most, kept, Cell(size, prefix).parts(groups)),)
        ],
        schema={
            **{name: cells.schema[name] for name in ("prefix", "n_prompts")},
            **{"entropy": pl.Float64, "stderr": pl.Float64, "freedom": pl.Int32},
            **{"short_prompts": pl.Int32, **WITHOUT},
        },
        orient="row",
    )
    joined = cells.join(found, on=["prefix", "n_prompts"], how="left")
    return joined.with_columns(_estimates(joined, most))


_NO_PROMPTS = np.zeros(0), np.zeros(0, dtype=bool)


def _clusters(groups: Groups, kept: npt.NDArray[np.bool_]) -> Integers | None:
    """Cluster of each of the first prompts that is `kept`; None where there are no clusters."""
    return groups.of[: len(kept)][kept] if isinstance(groups, Clusters) else None


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
    values: npt.NDArray[np.float64], kept: npt.NDArray[np.bool_], parts: Sequence[Cell]
) -> list[float]:
    """Means of `values` without each group of prompts; empty if one of them does not exist.

    values: of the prompts that are not set aside; kept: (P,) which those are.
    """
    rests = [values[part.stays[kept[: part.n_prompts]]] for part in parts]
    if not all(len(rest) and np.isfinite(rest).all() for rest in rests):
        return []
    return [float(rest.mean()) for rest in rests]


def _estimates(found: pl.DataFrame, most: float) -> list[pl.Series]:
    """Mean, error and interval in nats and over `most`, from `entropy`, `stderr`, `freedom`."""
    columns = []
    for metric, unit in (("entropy", 1.0), ("entropy_norm", most)):
        of_metric = [
            student(mean / unit, stderr / unit, freedom, (0.0, most / unit))
            for mean, stderr, freedom in found.select("entropy", "stderr", "freedom").iter_rows()
        ]
        for place, name in enumerate((metric, *error_names(metric))):
            columns.append(pl.Series(name, [e[place] for e in of_metric], dtype=pl.Float64))
    return columns


def _entropies(
    view: RunView, lengths: npt.NDArray[np.int32], prefixes: Sequence[int], *, read: bool
) -> npt.NDArray[np.float64]:
    """(prefixes, P) entropy in nats at the end of each prefix of each prompt; NaN if not captured.

    Reads one shard at a time and keeps 8 bytes for each prompt and prefix.
    """
    found = np.full((len(prefixes), len(lengths)), np.nan)
    for shard, file in zip(view.run.shards, view.run.tokens_files(), strict=True) if read else ():
        here = lengths[shard.first_prompt : shard.end_prompt]
        if len(here) == 0:  # after a missing shard
            break
        tokens = read_tokens(file, ["prompt_id", "position", "entropy"])
        prompt_id, position = (tokens[name].to_numpy() for name in ("prompt_id", "position"))
        nats = tokens["entropy"].cast(pl.Float64).to_numpy()
        starts = np.cumsum(here) - here
        prompts = shard.first_prompt + np.arange(len(here))
        for row, prefix in zip(found, prefixes, strict=True):
            last = np.minimum(here, prefix) - 1
            at = np.minimum(starts + last, len(nats) - 1)
            right = (prompt_id[at] == prompts) & (position[at] == last)
            row[prompts] = np.where(right, nats[at], np.nan)
    return found


def _distinct(view: RunView, cells: pl.DataFrame) -> pl.Series:
    """Share of distinct token prefixes in each of `cells`."""
    width = 4  # bytes of an int32 token id
    kept = view.prompts.filter(pl.Series(view.lengths > 0))["token_ids"]
    prompts = [ids.cast(pl.Int32).to_numpy().tobytes() for ids in kept]
    shares = []
    for prefix, size in cells.select("prefix", "n_prompts").iter_rows():
        some = prompts[: int(np.count_nonzero(view.lengths[:size]))]
        distinct = len({ids[: width * prefix] for ids in some})
        shares.append(distinct / len(some) if some else None)
    return pl.Series("distinct_prefixes", shares, dtype=pl.Float64)
