"""One comparison as the tables that pages, programs and the database show."""

from collections.abc import Callable, Mapping

import polars as pl

from lpp.analyze.drift.summaries import by_position
from lpp.analyze.drift.tables import Drift
from lpp.analyze.drift.worst import worst_tokens
from lpp.analyze.numerics.kl_histogram import kl_histogram
from lpp.analyze.quantities.drift import PREDICTIONS, SITE_CHANGES
from lpp.analyze.runs.groups import Groups


def frames_of(drift: Drift, *, tokens: bool = True) -> dict[str, pl.DataFrame]:
    """What pages and programs get of one comparison, by table: `drift_predictions`, `drift_sites`,
    `comparisons`, and with `tokens` also `drift_positions`, `drift_histogram` and `drift_tokens`,
    the ten tokens that changed most.
    """
    made = drift.frames()
    ends = {name: f"mean_{name}" for name in ("stderr", "ci_low", "ci_high")}
    whole = [name for name, number in PREDICTIONS.items() if "median" in number.statistics]
    spread = pl.when(pl.col("number").is_in(whole)).then(pl.col("median", "p99", "maximum"))
    sites = made["drift_sites"]
    if drift.rerun:
        again = pl.col("site").replace_strict(drift.rerun, default=None, return_dtype=pl.Float64)
        sites = sites.with_columns(rerun_distance=again)
    frames = {
        "drift_predictions": made["drift_predictions"].rename(ends).with_columns(spread),
        "drift_sites": sites,
        "comparisons": facts(drift),
    }
    pair = drift.pair.a.run.id, drift.pair.b.run.id
    read = {pair: lambda: (drift.tokens, drift.pair.groups)} if tokens else {}
    worst = {"drift_tokens": worst_tokens(drift)} if tokens else {}
    return frames | frames_of_tokens(read) | worst


def facts(drift: Drift) -> pl.DataFrame:
    """What was compared, as one row: prompts, tokens, the draw, what takes no part and why."""
    pair = drift.pair
    (n_a, n_b), lost = (one.n_prompts for one in pair.runs), pair.lost
    of_sites = dict.fromkeys(name for site in drift.sites for name in site.numbers)
    row = {
        "run_a": pair.a.run.id,
        "run_b": pair.b.run.id,
        "n_prompts": pair.n_prompts,
        "n_prompts_a": n_a,
        "n_prompts_b": n_b,
        "n_tokens": pair.n_tokens(drift.first_position),
        "n_compared": len(drift.tokens),
        "first_position": drift.first_position,
        "seed": drift.seed,
        "cluster": pair.cluster,
        "exactly_equal": drift.is_nothing,
        "one_run": pair.of_one_run,
        "base_prompts": lost.n_base,
        "set_aside": lost.set_aside,
        "missing": lost.missing,
        "left_out": pair.excluded.tolist(),
        "no_logits": drift.no_logits,
        "arithmetic": drift.arithmetic or None,
        **{f"ties_{name}": drift.predictions[name].ties for name in ("flips", "top10")},
        "metrics": [name for name in of_sites if name not in SITE_CHANGES],
        "notes": list(drift.notes),
    }
    words = dict.fromkeys(("cluster", "no_logits", "arithmetic"), pl.String)
    numbers = {"seed": pl.Int64, "ties_flips": pl.Float64, "ties_top10": pl.Float64}
    lists = {
        "left_out": pl.List(pl.Int64),
        **dict.fromkeys(("metrics", "notes"), pl.List(pl.String)),
    }
    return pl.DataFrame([row], schema_overrides={**words, **numbers, **lists})


def frames_of_tokens(
    pairs: Mapping[tuple[str, str], Callable[[], tuple[pl.DataFrame, Groups]]],
) -> dict[str, pl.DataFrame]:
    """Positions and histogram; pairs: a function each that gives rows of `drift_tokens`, and
    groups of the jackknife.
    """
    parts: dict[str, list[pl.DataFrame]] = {"drift_positions": [], "drift_histogram": []}
    for pair, read in pairs.items():
        tokens, groups = read()
        names = pl.lit(pair[0]).alias("run_a"), pl.lit(pair[1]).alias("run_b")
        parts["drift_positions"].append(by_position(tokens, groups).select(*names, pl.all()))
        parts["drift_histogram"].append(kl_histogram(tokens).select(*names, pl.all()))
    return {name: pl.concat(rows) if rows else pl.DataFrame() for name, rows in parts.items()}
