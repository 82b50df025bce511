"""Correlations of profile metrics with benchmark scores, across models, read honestly.

One *family* is one source of scores and one method; Benjamini and Hochberg (1995) correct over
all its tests. Two sources never meet in one. A flag says why a test was not made.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from lpp.analyze.quantities.correlations import FEW, FEWEST
from lpp.analyze.questions import CorrelateSettings
from lpp.analyze.runs.keys import Url
from lpp.analyze.scores.sample import ProfileRow, Sample, scores_by_source, take_sample
from lpp.sql.schema import arrow_schema
from lpp.store.errors import ErrorKind, InputError

if TYPE_CHECKING:
    from lpp.analyze.numerics.moments import Floats
    from lpp.analyze.numerics.statistics.association import Method

CONTROL: Final = "n_parameters"


def correlate(url: Url, settings: CorrelateSettings | None = None) -> pl.DataFrame:
    """Every test that `settings` ask of the store at `url`: the table `correlations`.

    Rows whose `coefficient` is null were not made; `flags` says why. Reads profiles from the
    store's database and scores from the store.

    Raises InputError where there are no profiles or no scores, or a name fits nothing.
    """
    from lpp.analyze.numerics.statistics.association import METHODS

    settings = settings or CorrelateSettings()
    sample = take_sample(url, settings)
    at = {"site": settings.site, "context": sample.context, "n_prompts": sample.n_prompts}
    rows: list[dict[str, Any]] = []
    for source, scores in scores_by_source(url, settings, sample):
        pairings = list(_pairings(sample, scores, settings))
        for method in METHODS:
            family = [
                {"source": source, **at, **_test(method, row, values)} for row, values in pairings
            ]
            _correct(family)
            rows += family
    if not rows:
        raise InputError(
            "no benchmark is among those asked for. `lpp-analyze benchmarks list STORE` shows "
            "what there is; --benchmark takes patterns.",
            kind=ErrorKind.NOT_FOUND,
        )
    empty = pl.DataFrame(arrow_schema("correlations").empty_table())
    return _flag_turns(pl.DataFrame(rows, schema=empty.schema))


def why_unranked(correlations: pl.DataFrame) -> InputError | None:
    """The error if none of `correlations` has a coefficient: the reason, and who is missing."""
    if correlations["coefficient"].is_not_null().any():
        return None
    most = max(correlations["n_models"].to_list(), default=0)
    few = f"fewer than {FEWEST} models" if most < FEWEST else "no test could be made"
    return InputError(
        f"not ranked: {few}, {most} at most with both a profile and a score. Four models agree "
        "perfectly by chance once in twelve times, so a rank of them says nothing. `lpp-analyze "
        "benchmarks list STORE` shows which run each name of a score fits. Where a name fits "
        "several runs, choose: --corpus, or name RUNs. Else capture more models, and add their "
        "scores (lpp-analyze benchmarks add).",
        kind=ErrorKind.INCOMPLETE,
    )


def _pairings(
    sample: Sample, scores: pl.DataFrame, settings: CorrelateSettings
) -> Iterator[tuple[dict[str, Any], "Floats"]]:
    """Every benchmark of one source beside every metric: a row of the table without the test, and
    (metric, score, size) of its models, (3, n).
    """
    import numpy as np

    for (benchmark, scored), rows in scores.group_by("benchmark", "metric", maintain_order=True):
        names = (benchmark, f"{benchmark}:{scored}")
        if not any(fnmatchcase(name, p) for name in names for p in settings.benchmarks):
            continue
        held = dict(rows.select("fit", "value").iter_rows())
        for metric in settings.metrics:
            here = {
                run: profile
                for run, profile in sample.profiles.items()
                if run in held and profile[metric] is not None and math.isfinite(profile[metric])
            }
            row = {
                "profile_metric": metric,
                "benchmark": benchmark,
                "benchmark_metric": scored,
                "n_models": len(here),
                "models": list(here),
                "flags": _flags(here),
            }
            x, size = ([row[name] for row in here.values()] for name in (metric, CONTROL))
            yield row, np.array([x, [held[run] for run in here], size], dtype=float)


def _flags(profiles: Mapping[str, ProfileRow]) -> list[str]:
    """The flags of every test of `profiles`."""
    rows, n = profiles.values(), len(profiles)
    flags = {
        "different_prompts": len({row["prompt_set"] for row in rows}) > 1,
        "few_models": FEWEST <= n < FEW,
        "flagged_profiles": any(row["flagged"] for row in rows),
        "too_few_models": n < FEWEST,
    }
    return [flag for flag, holds in flags.items() if holds]


def _test(method: "Method", row: Mapping[str, Any], values: "Floats") -> dict[str, Any]:
    """`row` with the columns of one test, without q. values: (metric, score, size), (3, n)."""
    import numpy as np

    from lpp.analyze.numerics.statistics.association import associate

    flags, test = list(row["flags"]), dict[str, Any]()
    if row["n_models"] >= FEWEST:
        association = associate(method, *values)
        if association is None:
            single = np.ptp(values, axis=1).min() == 0
            flags.append("constant" if single else "same_order_as_size")
        else:
            low, high = association.interval or (None, None)
            test = {
                "coefficient": association.coefficient,
                "ci_low": low,
                "ci_high": high,
                "p_value": association.p_value,
            }
    control = CONTROL if method == "rank_partial" else ""
    return {**row, **test, "method": method, "controlled_for": control, "flags": sorted(flags)}


def _correct(family: Sequence[dict[str, Any]]) -> None:
    """Fill in q and the size of the family: the tests that were made."""
    from lpp.analyze.numerics.statistics.association import benjamini_hochberg

    made = [row for row in family if "p_value" in row]
    q_values = benjamini_hochberg([row["p_value"] for row in made])
    for row, q in zip(made, q_values, strict=True):
        row["q_value"] = q
    for row in family:
        row["family_size"] = len(made)


def _flag_turns(tests: pl.DataFrame) -> pl.DataFrame:
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
    return tests.with_columns(flags=pl.when(turns.fill_null(False)).then(marked).otherwise("flags"))
