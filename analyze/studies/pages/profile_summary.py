"""The first screen: a sentence on what the numbers mean, the numbers, and warnings.

It is about one setting: the one with the most runs on the same prompts, and without attention sinks
if rows hold any and were also measured without. The first run is the base: a difference is a run's
number minus that of the base, both at the prefix where the base has its extreme. A difference is
significant if its paired 95 % interval excludes 0; an interval that holds 0 shows no equality.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from lpp.analyze.metrics.registry import PROFILE
from lpp.analyze.pages.page import UNKNOWN_FLAG, Figure, Opening
from lpp.analyze.pages.words import (
    MISSING,
    Sentence,
    clause,
    flag,
    label,
    listed,
    number,
    ref,
    rough,
    run,
    say,
)
from lpp.analyze.quantities.flags import MEANING
from lpp.store.units import counted

_PROFILES: Final = "profiles"
DIFFERENCES: Final = "differences"
"""Names of the tables that the sentence links to."""

SETTING: Final = ("site", "context", "n_prompts", "first_position")
"""Columns that say at what setting a number was taken."""

AXES: Final = ("entropy_floor", "participation_ratio", "effective_rank")
"""The three axes of a profile; the table of differences has their normalised forms too."""

UNITS: Final = {name: PROFILE[name].unit_words for name in AXES}
DIFFERS: Final = "differs from 0"
MAY_BE_EQUAL: Final = "may be 0"
UNKNOWN: Final = "no interval"
"""Verdicts of the saved query `differences`; another one is of a missing value."""

_SINK: Final = "sink"

NamedRow = Mapping[str, Any]

FEW: Final = 4
"""With more runs, only the smallest and the largest values are shown, not each run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Tables of the database behind the sentence; an empty frame is not known."""

    profiles: pl.DataFrame
    differences: pl.DataFrame
    """As the saved query `differences` gives them."""
    layers: pl.DataFrame
    """Bounds of ranks, and flags, of every site at the whole context."""
    entropy: pl.DataFrame


def summary(numbers: Numbers, order: Sequence[str], meanings: Mapping[str, str]) -> Opening:
    """The first screen of a store. order: run ids, as the page orders them."""
    profiles = numbers.profiles
    if profiles.is_empty():
        return Opening(("There are no profiles, so there is nothing to compare.",), "")
    rows = _ordered(_by_setting(profiles)[0], order)
    shared = len(rows) > 1 and _same(rows)
    n_runs = profiles["run"].n_unique()
    if len(rows) == 1 and n_runs > 1:
        rows = _ordered(profiles.unique("run", keep="first", maintain_order=True), order)
    axes = [m for m in AXES if m == AXES[0] or any(_known(row[m]) for row in rows)]
    conclusion = _Conclusion(numbers, rows, axes)
    few = len(rows) <= FEW
    return Opening(
        sentence=say(conclusion.text(shared=shared, n_runs=n_runs)),
        setting=_where(rows[0]) if shared or n_runs == 1 else "each run at its own setting",
        head=_few_head(axes) if few else (("number", ""), ("smallest", ""), ("largest", "")),
        rows=tuple(_few_rows(rows, axes) if few else _ends(rows, axes)),
        warnings=tuple(flag_warnings(numbers.layers, rows, meanings)),
        repeated=True,
    )


def further(numbers: Numbers, order: Sequence[str], most: int) -> Iterator[Sentence]:
    """Sentences on the settings of two runs or more after that of the first screen, most runs
    first. order: as of `summary`. most: sentences.
    """
    shared = [rows for rows in _by_setting(numbers.profiles) if rows.height > 1]
    for rows in shared[1 : 1 + most]:
        ordered = _ordered(rows, order)
        axes = [m for m in AXES if m == AXES[0] or any(_known(row[m]) for row in ordered)]
        conclusion = _Conclusion(numbers, ordered, axes)
        yield say(f"{_where(ordered[0])}. {conclusion.text(shared=True, n_runs=rows.height)}")
    if (left := len(shared) - 1 - most) > 0:
        yield say(f"The table of {ref(DIFFERENCES, DIFFERENCES)} holds {left} more settings.")


def _by_setting(profiles: pl.DataFrame) -> list[pl.DataFrame]:
    """Profiles of each setting, the one with the most runs first; of several, one whose rows hold
    no attention sinks, then the longest context.
    """
    keys = [*SETTING, "prompt_set"]
    sinks = pl.col("flags").list.contains(_SINK).any()
    down = [True, False, False, True, True, False, False]
    by = ["runs", "sinks", "first_position", "context", "n_prompts", "site", "prompt_set"]
    sizes = profiles.group_by(keys).agg(runs=pl.len(), sinks=sinks)
    ranked = sizes.sort(by, descending=down, nulls_last=True).with_row_index("rank")
    numbered = profiles.join(ranked.select("rank", *keys), on=keys, nulls_equal=True)
    return [
        rows.drop("rank")
        for rows in numbered.sort("rank").partition_by("rank", maintain_order=True)
    ]


def _ordered(frame: pl.DataFrame, order: Sequence[str]) -> list[NamedRow]:
    positions = {one: k for k, one in enumerate(order)}
    rows = list(frame.iter_rows(named=True))
    return sorted(rows, key=lambda row: (positions.get(row["run"], len(positions)), row["run"]))


def _same(rows: Sequence[NamedRow]) -> bool:
    return len({tuple(row[name] for name in (*SETTING, "prompt_set")) for row in rows}) == 1


def _where(row: NamedRow) -> str:
    first = row["first_position"]
    without = f", without the first {first} positions" if first else ""
    return f"{row['site']}, context {row['context']}, {row['n_prompts']} prompts{without}"


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


@dataclass(frozen=True, slots=True)
class _Conclusion:
    """The sentence about `rows`, the profiles that are shown."""

    numbers: Numbers
    rows: Sequence[NamedRow]
    axes: Sequence[str]
    """The floor, and those of the other `AXES` that any of `rows` has."""

    def text(self, *, shared: bool, n_runs: int) -> str:
        start = f"At {self.rows[0]['site']}, "
        if n_runs == 1:
            return f"{start}{self._alone(self.rows[0])}; no other run has a profile to compare."
        if not shared:
            start = f"No two of {n_runs} runs share a site, a context and the same prompts: "
        if len(self.rows) > FEW:
            return f"{start}{self._many(shared=shared)}."
        first, *others = self.rows
        describe = self._beside if shared else self._alone
        clauses = ". ".join((self._alone(first), *map(describe, others)))
        rest = n_runs - len(self.rows)
        other = f". {rest} more run{'s' * (rest > 1)} cannot be compared with these" * (rest > 0)
        return f"{start}{clauses}{other}."

    def _alone(self, row: NamedRow) -> str:
        """The values of a run."""
        tokens = self._tokens(row)
        choice = "" if tokens is None else f", like a choice among {tokens} equally likely tokens,"
        if not self.axes[1:]:
            choice = choice.rstrip(",")
        floor = ref(rough(row["entropy_floor"]), _PROFILES)
        text = f"{run(row['run'])} has an entropy floor of {floor} of ln V{choice}"
        bound = f"{self._bound(row)} dimensions"
        for k, metric in enumerate(self.axes[1:]):
            value = ref(rough(row[metric]), _PROFILES)
            text += f" and {'' if k else 'uses '}{value}{'' if k else bound} by {label(metric)}"
        return text

    def _beside(self, row: NamedRow) -> str:
        """How a run differs from the first."""
        compared = [self._compared(metric, row) for metric in self.axes]
        clauses, unsure = ([w for sure, w in compared if sure is kind] for kind in (True, False))
        text = f"{run(row['run'])} {listed(clauses)}" if clauses else run(row["run"])
        if unsure:
            text += f"{';' if clauses else ':'} the difference{'s' * (len(unsure) > 1)} in "
            text += f"{listed(unsure)} {'are' if unsure[1:] else 'is'} not significant"
        return text

    def _compared(self, metric: str, row: NamedRow) -> tuple[bool, str]:
        """A clause, and True; or the name of a difference that may be 0, and False."""
        pair = self._pairs(metric).filter(run_b=row["run"]).head(1).to_dicts()
        change: Any = pair[0]["difference"] if pair else None
        verdict = pair[0]["verdict"] if pair else None
        name = label(metric)
        if verdict in (DIFFERS, MAY_BE_EQUAL) and change == 0:
            return True, f"has the same {name}"
        if verdict in (DIFFERS, MAY_BE_EQUAL):
            low, high = (rough(pair[0][f"difference_ci_{end}"]) for end in ("low", "high"))
            moved = ref(f"{'+' * (change > 0)}{rough(change)} [{low}, {high}]", DIFFERENCES)
            unit = f" {UNITS[metric]}" if metric == AXES[0] else ""
            elsewhere = pair[0]["prefix"] != pair[0]["extreme_b_prefix"]
            at = f" at prefix {pair[0]['prefix']}" if elsewhere else ""
            larger = f"has a {'larger' if change > 0 else 'smaller'} {name}"
            if metric == AXES[0]:
                larger = f"is {'less' if change > 0 else 'more'} certain"
            words = larger if verdict == DIFFERS else name
            return verdict == DIFFERS, f"{words} ({moved}{unit}{at})"
        unknown = "the difference has no interval"
        missing = unknown if verdict == UNKNOWN else "a value to compare is missing"
        value = ref(rough(row[metric]), _PROFILES)
        return True, f"has {name} {value} ({missing if pair else 'not compared'})"

    def _pairs(self, metric: str) -> pl.DataFrame:
        """Differences of `metric` from the first of the runs that are shown."""
        frame = self.numbers.differences
        if not frame.width:
            return pl.DataFrame(schema=["run_b", "verdict"])
        first = self.rows[0]
        at = [pl.col(name) == first[name] for name in SETTING]
        shown = pl.col("run_b").is_in([row["run"] for row in self.rows])
        return frame.filter(pl.col("metric") == metric, *at, shown, run_a=first["run"])

    def _many(self, *, shared: bool) -> str:
        dimensions = f"{self._bound(*self.rows)} dimensions"
        ranges = (
            f"{(' ', ', ', ' and ')[k]}{label(metric)}s"
            + _range(metric, _sorted(self.rows, metric), dimensions if k else " of ln V")
            for k, metric in enumerate(self.axes)
        )
        text = f"{len(self.rows)} runs have" + "".join(ranges)
        if not shared:
            return text
        verdicts = {metric: self._pairs(metric)["verdict"].to_list() for metric in self.axes}
        others, first = len(self.rows) - 1, run(self.rows[0]["run"])
        if not any(verdicts.values()):
            return f"{text}; how the other {others} differ from {first} was not computed"
        text += f". Of the other {others}, "
        for k, (metric, found) in enumerate(verdicts.items()):
            differ = f" differ significantly from {first}" * (not k)
            count = ref(f"{found.count(DIFFERS)}", DIFFERENCES)
            text += f"{('', ', ', ' and ')[k]}{count}{differ} in {label(metric)}"
            if unsure := others - found.count(DIFFERS) - found.count(MAY_BE_EQUAL):
                text += f" ({unsure} without an interval)"
        return text

    def _bound(self, *rows: NamedRow) -> str:
        """` of 576`: the largest possible rank; empty if it differs between runs."""
        frame = self.numbers.layers
        bounds = set()
        for row in rows if frame.width else ():
            at = [pl.col(name) == row[name] for name in ("run", *SETTING)]
            bounds |= {*frame.filter(*at)["rank_bound"].drop_nulls()}
        return f" of {bounds.pop():,}" if len(bounds) == 1 else ""

    def _tokens(self, row: NamedRow) -> str | None:
        """Number of equally likely tokens with the same entropy as the floor."""
        frame = self.numbers.entropy
        if not frame.width or row["entropy_floor_prefix"] is None:
            return None
        at = [pl.col(name) == row[name] for name in ("run", "context", "n_prompts")]
        at.append(pl.col("prefix") == row["entropy_floor_prefix"])
        nats = frame.filter(*at)["entropy"].drop_nulls().drop_nans()
        return rough(math.exp(nats[0])) if len(nats) else None


def _sorted(rows: Sequence[NamedRow], metric: str) -> list[NamedRow]:
    """Rows with a value of `metric`, the smallest first."""
    return sorted((row for row in rows if _known(row[metric])), key=lambda row: row[metric])


def _range(metric: str, rows: Sequence[NamedRow], unit: str) -> str:
    """` from 0.2 (RUN) to 0.9 of ln V (RUN)`."""
    if not rows:
        return f" {MISSING}"
    (low, first), (high, last) = (
        (ref(rough(row[metric]), _PROFILES), run(row["run"], short=True))
        for row in (rows[0], rows[-1])
    )
    return f" from {low} ({first}) to {high}{unit} ({last})"


def _few_head(axes: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return (("run", ""), *((label(metric), UNITS[metric]) for metric in axes))


def _few_rows(rows: Sequence[NamedRow], axes: Sequence[str]) -> Iterator[tuple[Figure, ...]]:
    for row in rows:
        yield (Figure(run=row["run"]), *(_figure(row, metric) for metric in axes))


def _ends(rows: Sequence[NamedRow], axes: Sequence[str]) -> Iterator[tuple[Figure, ...]]:
    """A row for each metric: its smallest and its largest value, with their runs."""
    for metric in axes:
        ordered = _sorted(rows, metric)
        ends = [_figure(row, metric, row["run"]) for row in (ordered[:1] + ordered[-1:])]
        yield (Figure(f"{label(metric)} ({UNITS[metric]})"), *(ends or [Figure(MISSING)] * 2))


def _figure(row: NamedRow, metric: str, of: str | None = None) -> Figure:
    low, high = (row.get(f"{metric}_{end}") for end in ("ci_low", "ci_high"))
    sure = _known(low) and _known(high)
    interval = f"[{number(low)}, {number(high)}]" if sure else "no interval"
    return Figure(number(row[metric]), interval if _known(row[metric]) else "", of)


def flag_warnings(
    of_sites: pl.DataFrame, rows: Sequence[NamedRow], meanings: Mapping[str, str] = MEANING
) -> Iterator[Sentence]:
    """A line for each flag of `rows` and of their runs' sites: the runs that have it, and its
    meaning. of_sites: rows with `run`, `site` and `flags`.
    """
    layers = _flagged_layers(of_sites, rows)
    flags_by_run = {row["run"]: {*(row["flags"] or ())} for row in rows}
    for name in sorted({*layers, *(name for names in flags_by_run.values() for name in names)}):
        counts = layers.get(name, {})
        runs = [one for one in flags_by_run if name in flags_by_run[one] or one in counts]
        where = {one: f" at {counted(counts[one], 'site')}" for one in runs if one in counts}
        where |= {one: "" for one in runs if name in flags_by_run[one]}
        named = listed([f"{run(one, short=True)}{where[one]}" for one in runs])
        subject = f"{len(runs)} runs" if len(runs) > FEW else named
        yield say(f"{flag(name)} ({subject}): {clause(meanings.get(name, UNKNOWN_FLAG))}.")


def run_warnings(rows: pl.DataFrame) -> Iterator[Sentence]:
    """A line for each flag of `rows`, which have `run` and `flags`; all but `no_error`."""
    flags = pl.col("flags").explode(empty_as_null=False).unique().sort()
    by_run = rows.group_by("run", maintain_order=True).agg(flags)
    flagged = by_run.with_columns(pl.col("flags").list.set_difference(["no_error"]))
    return flag_warnings(pl.DataFrame(), flagged.to_dicts())


def _flagged_layers(
    layers: pl.DataFrame, rows: Sequence[NamedRow]
) -> Mapping[str, Mapping[str, int]]:
    """For each flag, the number of sites of each run that have it, in ranks by depth."""
    if "flags" not in layers.columns:
        return {}
    shown = layers.filter(pl.col("run").is_in([row["run"] for row in rows]))
    if "first_position" in shown.columns:
        shown = _without_sinks(shown)
    flagged = shown.select("run", "site", flag="flags").explode("flag").drop_nulls("flag")
    flagged = flagged.filter(pl.col("flag") != "no_error")  # sites have few errors anyway
    counts = flagged.group_by("flag", "run").agg(sites=pl.col("site").n_unique())
    by_flag: dict[str, dict[str, int]] = {}
    for name, run_id, sites in counts.iter_rows():
        by_flag.setdefault(name, {})[run_id] = sites
    return by_flag


def _without_sinks(layers: pl.DataFrame) -> pl.DataFrame:
    """`layers`, where rows that hold attention sinks have no other flag than `sink` if the site was
    measured without the sinks too.
    """
    sinks = pl.col("flags").list.contains(_SINK)
    without = layers.filter(~sinks & (pl.col("first_position") > 0))
    keys = ["run", "site", "context", "n_prompts"]
    both = layers.with_row_index().join(without, on=keys, how="semi")["index"].implode()
    of_sinks = pl.col("index").is_in(both) & sinks
    flags = pl.when(of_sinks).then(pl.lit([_SINK])).otherwise("flags")
    return layers.with_row_index().with_columns(flags=flags)
