"""Correlations of profile metrics with benchmark scores, across models, read honestly.

One *family* is one source of scores and one method; Benjamini and Hochberg (1995) correct over
all its tests. Two sources never meet in one. Whoever takes no part in a test is named in its row
with the reason, and so is why a test was not made.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from lpp.analyze.runs.comparable import prompt_sets
from lpp.analyze.runs.keys import Url, views
from lpp.analyze.scores.correlation_inputs import fits_any, profiled, scores_by_source
from lpp.analyze.scores.scores import fits_of
from lpp.analyze.scores.subjects import Cast, Setting, Subject, choose_subjects
from lpp.store.errors import ErrorKind, InputError

if TYPE_CHECKING:
    from lpp.analyze.numerics.association import Method

FEWEST: Final = 5
"""Models below which nothing is ranked: four can stand in one order in 24 ways, so that even a
perfect agreement is found by chance once in twelve times."""

FEW: Final = 10
"""Models below which intervals, and p from the t distribution, are rough."""

DEFAULT_METRICS: Final = (
    "entropy_floor",
    "participation_ratio",
    "participation_ratio_norm",
    "effective_rank",
    "effective_rank_norm",
)
"""The three of the paper; ranks in dimensions and over min(N, d), which say different things."""

CONTROL: Final = "n_parameters"

MEANING: Final[Mapping[str, str]] = {
    "constant": "no coefficient: one side has a single value",
    "different_prompts": "profiles come from different texts, which alone changes them",
    "different_settings": "some profiles have another context or number of prompts",
    "few_models": f"fewer than {FEW} models: the interval is rough (rank-partial: too short)",
    "flagged_profiles": "some of the profiles carry flags of their own",
    "published": "published profiles are included: other texts, other code, context 150",
    "same_order_as_size": "no coefficient: one side has exactly the order of model size",
    "sign_turns": "the sign of the rank correlation changes with size held constant",
    "too_few_models": f"no coefficient: fewer than {FEWEST} models cannot be ranked",
}
"""What each flag of a correlation says."""

_NOT_MADE: Final = {"constant", "same_order_as_size", "too_few_models"}
_SHOWN: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is correlated with what."""

    metrics: Sequence[str] = DEFAULT_METRICS
    """Columns of `site_profiles`."""
    benchmarks: Sequence[str] = ("*",)
    """Patterns, of a benchmark or of `benchmark:metric`."""
    sources: Sequence[str] = ("*",)
    runs: Sequence[str] = ("*",)
    corpora: Sequence[str] = ("*",)
    """Patterns of the corpora that runs were captured on."""
    setting: Setting = field(default_factory=Setting)
    untrained: bool = False
    with_published: bool = False
    seed: int = 0
    """Of the bootstrap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """One metric beside one benchmark: the subjects of a test."""

    metric: str
    benchmark: tuple[str, str]
    subjects: Sequence[Subject]
    scores: Sequence[float]
    left_out: Sequence[str]
    other_settings: bool
    """Whether a subject is of another context or number of prompts than the row says."""


def correlate(url: Url, question: Question | None = None) -> pl.DataFrame:
    """Every test that `question` asks of the store at `url`: the table `correlations`.

    Rows whose `coefficient` is null were not made; `flags` says why. Reads profiles from the
    store's database and scores from the store.

    Raises InputError where there are no profiles or no scores, or a name fits nothing.
    """
    from lpp.analyze.numerics.association import METHODS

    question = question or Question()
    profiles, runs = profiled(url, question.metrics)
    cast = choose_subjects(
        profiles,
        runs,
        question.setting,
        question.metrics,
        patterns=question.runs,
        corpora=question.corpora,
        untrained=question.untrained,
        published=question.with_published,
    )
    cast = replace(cast, subjects=_with_texts(url, cast))
    rows: list[dict[str, Any]] = []
    for source, scores in scores_by_source(
        url, question.sources, with_published=question.with_published
    ).items():
        pairings = list(_pairings(cast, scores, question))
        for method in METHODS:
            family = [_test(method, pairing, question.seed) for pairing in pairings]
            _correct(family)
            rows += [{"source": source, **row} for row in family]
    if not rows:
        raise InputError(
            "no benchmark is among those asked for. `lpp-analyze benchmarks list STORE` shows "
            "what there is; --benchmark takes patterns.",
            kind=ErrorKind.NOT_FOUND,
        )
    at = {"site": cast.site, "context": cast.context, "n_prompts": cast.n_prompts}
    return _flag_turns(pl.DataFrame([{**row, **at} for row in rows], schema=_schema()))


def _with_texts(url: Url, cast: Cast) -> list[Subject]:
    """The subjects, each with the name of the texts that its profile is of as its prompt set."""
    found = prompt_sets(views(url), [cast.n_prompts])
    sets = dict(found.select("run", "prompt_set").iter_rows())
    return [replace(s, prompt_set=sets.get(s.id, s.prompt_set)) for s in cast.subjects]


def refuse_unranked(found: pl.DataFrame) -> None:
    """InputError where no test of `found` could be made, with the reason and who is missing."""
    if found["coefficient"].is_not_null().any():
        return
    most = max(found["n_models"].to_list(), default=0)
    few = f"fewer than {FEWEST} models" if most < FEWEST else "no test could be made"
    raise InputError(
        f"not ranked: {few}, {most} at most with both a profile and a score. Four models agree "
        "perfectly by chance once in twelve times, so a rank of them says nothing. Who was left "
        "out is in the table `correlations`. Where a name fits several runs, choose: --corpus or "
        "--run. Else capture more models, add their scores "
        "(lpp-analyze benchmarks add), or set yours beside the paper's: --with-published.",
        kind=ErrorKind.INCOMPLETE,
    )


def _pairings(
    cast: Cast, scores: Sequence[Mapping[str, Any]], question: Question
) -> Iterator[Pairing]:
    """Every benchmark of one source beside every metric."""
    fits = fits_of(scores, [subject.name for subject in cast.subjects])
    unmatched = [f"{name}: {fit.note}" for (name, _), fit in fits.items() if fit.run is None]
    by_benchmark: dict[tuple[str, str], dict[str, float]] = {}
    for row in scores:
        name, metric = row["benchmark"], row["metric"]
        if fits_any(name, question.benchmarks) or fits_any(f"{name}:{metric}", question.benchmarks):
            held = by_benchmark.setdefault((name, metric), {})
            run = fits[row["model"], row["run"]].run
            if run is not None:
                held[run] = row["value"]
    for benchmark, held in by_benchmark.items():
        for metric in question.metrics:
            yield _pairing(cast, metric, benchmark, held, unmatched)


def _pairing(
    cast: Cast,
    metric: str,
    benchmark: tuple[str, str],
    held: Mapping[str, float],
    unmatched: Sequence[str],
) -> Pairing:
    here, reasons = [], list(cast.left_out)
    for subject in cast.subjects:
        value = subject.values[metric]
        if value is None or not math.isfinite(value):
            reasons.append(f"{subject.id}: no {metric}")
        elif subject.id not in held:
            reasons.append(f"{subject.id}: no score of {benchmark[0]}")
        else:
            here.append(subject)
    more = len(unmatched) - _SHOWN
    reasons += unmatched[:_SHOWN]
    reasons += [f"{more} more names of the source: they fit no run"] if more > 0 else []
    return Pairing(
        metric=metric,
        benchmark=benchmark,
        subjects=here,
        scores=[held[subject.id] for subject in here],
        left_out=reasons,
        other_settings=any(
            (subject.context, subject.n_prompts) != (cast.context, cast.n_prompts)
            for subject in here
        ),
    )


def _test(method: "Method", pairing: Pairing, seed: int) -> dict[str, Any]:
    """One row of the table, without q and without the setting."""
    import numpy as np

    from lpp.analyze.numerics.association import associate

    subjects = pairing.subjects
    flags = _flags(subjects) + ["different_settings"] * pairing.other_settings
    association = None
    if len(subjects) < FEWEST:
        flags.append("too_few_models")
    else:
        x = np.array([subject.values[pairing.metric] for subject in subjects], dtype=float)
        y = np.array(pairing.scores, dtype=float)
        size = np.array([subject.n_parameters for subject in subjects])
        association = associate(method, x, y, size, seed=seed)
        if association is None:
            single = min(np.ptp(values) for values in (x, y, size)) == 0
            flags.append("constant" if single else "same_order_as_size")
    row: dict[str, Any] = {
        "profile_metric": pairing.metric,
        "benchmark": pairing.benchmark[0],
        "benchmark_metric": pairing.benchmark[1],
        "method": method,
        "controlled_for": CONTROL if method == "rank_partial" else "",
        "n_models": len(subjects),
        "models": [subject.id for subject in subjects],
        "flags": sorted(flags),
        "left_out": list(pairing.left_out),
    }
    if association is not None:
        low, high = association.interval or (None, None)
        row |= {
            "coefficient": association.coefficient,
            "ci_low": low,
            "ci_high": high,
            "ci_method": None if low is None else f"bootstrap, {association.ci_method}",
            "p_value": association.p_value,
            "p_method": association.p_method,
        }
    return row


def _flags(subjects: Sequence[Subject]) -> list[str]:
    found = {
        "different_prompts": len({subject.prompt_set for subject in subjects}) > 1,
        "few_models": FEWEST <= len(subjects) < FEW,
        "flagged_profiles": any(subject.flagged for subject in subjects),
        "published": any(subject.published for subject in subjects),
    }
    return [name for name, holds in found.items() if holds]


def _correct(family: Sequence[dict[str, Any]]) -> None:
    """Fill in q and the size of the family: the tests that were made."""
    from lpp.analyze.numerics.association import benjamini_hochberg

    made = [row for row in family if "p_value" in row]
    q_values = benjamini_hochberg([row["p_value"] for row in made])
    for row, q in zip(made, q_values, strict=True):
        row["q_value"] = q
    for row in family:
        row["family_size"] = len(made)


def _flag_turns(found: pl.DataFrame) -> pl.DataFrame:
    """Mark every row of a pair whose rank partial has another sign than Spearman's coefficient.

    Pearson's is not compared with it: a partial of ranks answers another question.
    """
    keys = ["source", "profile_metric", "benchmark", "benchmark_metric"]
    of_ranks, partial = (
        pl.col("coefficient").filter(pl.col("method") == method).first().over(keys)
        for method in ("spearman", "rank_partial")
    )
    turns = of_ranks.sign() * partial.sign() < 0
    marked = pl.col("flags").list.concat(pl.lit("sign_turns")).list.sort()
    return found.with_columns(flags=pl.when(turns.fill_null(False)).then(marked).otherwise("flags"))


def _schema() -> dict[str, pl.DataType]:
    from lpp.sql.schema import arrow_schema

    empty = pl.DataFrame(arrow_schema("correlations").empty_table())
    return dict(empty.schema)
