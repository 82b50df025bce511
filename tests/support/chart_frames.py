"""Frames like the tables, with values known to the tests, and a parser of pictures."""

import xml.etree.ElementTree as ET
from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import polars as pl
from report_tables import probe_rows

from lpp.analyze.charts.export import save_chart
from lpp.analyze.tables.eigenvalues import EIGENVALUES_SCHEMA
from lpp.sql.schema import arrow_schema

RUNS = ("tiny-one-00000001", "tiny-two-00000002", "tiny-six-00000006")
MARKS = frozenset({"point", "line mark", "rect mark", "text mark"})
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "'; DROP TABLE runs; --",
    "</script><script>alert(2)</script>",
    '"+alert(3)+"',
    "datum.x || signal",
    "line\nbreak\x00and\u202eturn",
)


def table(name: str, rows: list[dict[str, Any]]) -> pl.DataFrame:
    """`rows` in all columns of the declared table `name`; missing values are null."""
    return typed(rows, empty(name).schema)


def typed(rows: list[dict[str, Any]], schema: pl.Schema) -> pl.DataFrame:
    """`rows` in the columns of `schema`."""
    return pl.DataFrame([{c: row.get(c) for c in schema} for row in rows], schema=schema)


def empty(name: str) -> pl.DataFrame:
    """The declared table `name` without rows, as DuckDB returns it."""
    return pl.DataFrame(pl.from_arrow(arrow_schema(name).empty_table()))


def profiles(runs: tuple[str, ...] = RUNS, context: int = 200, n_prompts: int = 12) -> pl.DataFrame:
    """One profile for each run; every number differs from every other."""
    names = ("entropy_floor", "participation_ratio", "effective_rank")
    rows = []
    for k, run in enumerate(runs):
        row: dict[str, Any] = {"run": run, "site": "final", "context": context}
        row |= {"n_prompts": n_prompts, "model": f"lab/{run}", "flags": ["small_sample"]}
        for j, name in enumerate((*names, "participation_ratio_norm", "effective_rank_norm")):
            value = 0.125 + k + 10 * j
            row |= {name: value, f"{name}_stderr": 0.25, f"{name}_prefix": 20 * (k + 1)}
            row |= {f"{name}_ci_low": value - 0.5, f"{name}_ci_high": value + 0.75}
        rows.append(row)
    return table("profiles", rows)


def drift_sites(runs: tuple[str, ...] = RUNS) -> pl.DataFrame:
    """Three sites of each run, compared with a base; block.1 of the last has no number."""
    sites = ("embed", "block.1", "final")
    schema = {"a": pl.String, "b": pl.String, "site": pl.String, "depth": pl.Int32}
    return pl.DataFrame(
        [
            {"a": "base-00000000", "b": run, "site": site, "depth": depth}
            | {"relative_distance": None if (k, depth) == (2, 1) else 0.125 * (k + 1) + depth}
            | {"cka": 1 - 0.01 * (k + 1) - 0.1 * depth}
            for k, run in enumerate(runs)
            for depth, site in enumerate(sites)
        ],
        schema={**schema, "relative_distance": pl.Float64, "cka": pl.Float64},
    )


def drift_by_step() -> pl.DataFrame:
    """Rows of `drift_predictions` with steps: four checkpoints from a base, three from the last."""
    runs = [f"checkpoint-{step:08}" for step in (0, 10, 100, 1000)]
    return pl.DataFrame(
        {"run_a": a, "run_b": b, "step": int(b[-8:]), "number": number, "mean": mean}
        | {"mean_ci_low": 0.9 * mean, "mean_ci_high": 1.1 * mean}
        for a, others in (("base-00000000", runs), (runs[-1], runs[:-1]))
        for k, b in enumerate(others)
        for number, mean in (("kl", 0.5 + k), ("flips", 0.1 + k / 8), ("top10", 0.5))
    )


_PAIR = {"run_a": pl.String, "run_b": pl.String}


def pair_sites(runs: tuple[str, ...] = RUNS) -> pl.DataFrame:
    """Rows of `drift_sites`: three sites of each run, compared with a base, with intervals."""
    rows = []
    for k, run in enumerate(runs):
        for depth, site in enumerate(("embed", "block.1", "final")):
            distance = 0.01 * (k + 1) * (depth + 1)
            numbers = {"relative_distance": distance, "cka": 1 - distance**2}
            for name, value in [*numbers.items()]:
                numbers |= {f"{name}_ci_low": value * 0.9, f"{name}_ci_high": value * 1.0001}
            setting = {"n_prompts": 8, "first_position": 0, "n_tokens": 90}
            place = {"run_a": "base-00000000", "run_b": run, "site": site, "depth": depth}
            rows.append(place | setting | numbers)
    counts = dict.fromkeys(("depth", "n_prompts", "first_position", "n_tokens"), pl.Int32)
    return pl.DataFrame(rows, schema_overrides=counts)


def pair_positions(runs: tuple[str, ...] = RUNS) -> pl.DataFrame:
    """Four bands of positions of each run, compared with a base."""
    rows = [
        {"run_a": "base-00000000", "run_b": run, "first": first, "end": 2 * first or 1}
        | {"n_tokens": 20, "kl": kl, "kl_ci_low": 0.8 * kl, "kl_ci_high": 1.2 * kl}
        for k, run in enumerate(runs)
        for first in (0, 1, 2, 4)
        for kl in [0.01 * (k + 1) * (first + 1)]
    ]
    counts = dict.fromkeys(("first", "end", "n_tokens"), pl.Int32)
    return pl.DataFrame(rows, schema_overrides={**_PAIR, **counts})


def pair_bins(runs: tuple[str, ...] = RUNS) -> pl.DataFrame:
    """Five bins of KL of each run, compared with a base; one of tokens that are exactly 0."""
    rows = [
        {"run_a": "base-00000000", "run_b": run, "n_tokens": 18, "share": 0.2}
        | {"kl_from": None if k == 4 else 10.0 ** (k / 4), "kl_below": 10.0 ** ((k + 1) / 4)}
        for run in runs
        for k in range(5)
    ]
    return pl.DataFrame(rows)


def item_features(places: tuple[str, ...] = ("embed", "block.1", "final")) -> pl.DataFrame:
    """Two features of rows at three sites, a baseline, two features of predictions and one of the
    gold answer, in one analysis without groups.
    """
    rows: list[dict[str, Any]] = [
        {"feature": name, "site": site, "depth": min(depth, 1), "role": "rows"}
        | {"auroc": 0.5 + 0.05 * k + 0.01 * depth}
        for k, name in enumerate(("row_norm", "distance"))
        for depth, site in enumerate(places)
    ]
    others = {"answer_length": ("baseline", 0.54), "answer_gap": ("statistic", 0.7)}
    others |= {"answer_entropy": ("statistic", 0.28), "gold_logprob": ("gold", 0.99)}
    for name, (role, auroc) in others.items():
        rows.append({"feature": name, "site": "", "depth": None, "role": role, "auroc": auroc})
    for row in rows:
        row |= {"source": "s", "task": "quiz", "run": RUNS[0], "filter": "none", "skip_first": 1}
        row |= {"seed": 0, "ci_low": row["auroc"] - 0.1, "ci_high": row["auroc"] + 0.125}
        row |= {"shuffled_low": 0.45 - row["auroc"] / 10, "shuffled_high": 0.55 + row["auroc"] / 10}
    return table("item_features", rows)


def item_reliability() -> pl.DataFrame:
    """Three bins of different sizes."""
    bins = ((10, 0.3, 0.2), (12, 0.5, 0.5), (20, 0.875, 0.75))
    return table(
        "item_reliability",
        [
            {"task": "quiz", "run": RUNS[0], "bin": k, "n": n, "confidence": share}
            | {"accuracy": right, "accuracy_ci_low": right - 0.125, "accuracy_ci_high": right + 0.2}
            for k, (n, share, right) in enumerate(bins)
        ],
    )


def item_risk() -> pl.DataFrame:
    """Four items: only the third by confidence is wrong."""
    risks = (0.0, 0.0, 1 / 3, 1 / 4)
    return table(
        "item_risk",
        [
            {"task": "quiz", "run": RUNS[0], "n_answered": n, "coverage": n / 4, "risk": risk}
            for n, risk in enumerate(risks, 1)
        ],
    )


def probes() -> pl.DataFrame:
    """Probes of a label at three sites, and of two controls."""
    return table("probes", probe_rows(RUNS[0], ("embed", "block.1", "final"))["probes"])


def probe_reliability() -> pl.DataFrame:
    """Five bins of the best site."""
    rows = probe_rows(RUNS[0], ("embed", "block.1", "final"))["probe_reliability"]
    return table("probe_reliability", rows[:5])


def checkpoints(names: tuple[str, ...] = ("tiny-one", "tiny-two")) -> pl.DataFrame:
    """Five steps of each series, 0 to 1000; the third of the first is collapsed."""
    steps = [0, 1, 10, 100, 1000]
    runs = tuple(f"{name}-{place:08x}" for name in names for place in range(len(steps)))
    collapsed = pl.when(pl.int_range(pl.len()) == 2).then(pl.lit(["collapsed"]))
    return profiles(runs).with_columns(
        flags=collapsed.otherwise(pl.lit([], pl.List(pl.String))),
        series=pl.Series([name for name in names for _ in steps]),
        step=pl.Series(steps * len(names)),
        corpus=pl.lit("pydoc"),
        prompt_set=pl.lit("texts"),
        first_position=pl.lit(0, pl.Int32),
    )


def differences(runs: tuple[str, ...] = RUNS) -> pl.DataFrame:
    """Rows of the saved query: the second run of a pair minus the first, by index, for two numbers.

    Only differences of neighbours are within their intervals.
    """
    rows = [
        {"metric": metric, "run_a": a, "run_b": b, "site": "final", "context": 40, "n_prompts": 6}
        | {"first_position": 0, "difference": size * (k - j), "flags": ["small_sample"]}
        | {"difference_ci_low": size * (k - j - 1), "difference_ci_high": size * (k - j + 1)}
        | {"verdict": "may be 0" if k - j == 1 else "differs from 0"}
        for metric, size in (("entropy_floor", 0.125), ("effective_rank", 2.0))
        for j, a in enumerate(runs)
        for k, b in enumerate(runs)
        if j < k
    ]
    return pl.DataFrame(rows, schema_overrides={"flags": pl.List(pl.String)})


def entropy(runs: tuple[str, ...] = RUNS) -> pl.DataFrame:
    """Four prefixes of each run."""
    return table(
        "entropy",
        [
            {"run": run, "context": 40, "n_prompts": 6, "prefix": prefix}
            | {"entropy_norm": 0.1 * (k + 1) + prefix / 1000, "entropy": 1.0 + k}
            | {"entropy_norm_ci_low": 0.05 * (k + 1), "entropy_norm_ci_high": 0.2 * (k + 1)}
            for k, run in enumerate(runs)
            for prefix in (10, 20, 30, 40)
        ],
    )


def layers(runs: tuple[str, ...] = RUNS) -> pl.DataFrame:
    """Embed, four blocks and final of each run; block.2 of the first is collapsed."""
    sites = ("embed", "block.1", "block.2", "block.3", "block.4", "final")
    return table(
        "layers",
        [
            {"run": run, "site": site, "context": 40, "n_prompts": 6, "depth": min(d, 4)}
            | {"relative_depth": min(d, 4) / 4, "participation_ratio": 1.5 + d + k}
            | {"effective_rank": 2.5 + 2 * d + k, "effective_rank_stderr": 0.5}
            | {"effective_rank_ci_low": 1.5 + 2 * d + k, "effective_rank_ci_high": 4.0 + 2 * d + k}
            | {"flags": ["collapsed"] if (k, d) == (0, 2) else []}
            for k, run in enumerate(runs)
            for d, site in enumerate(sites)
        ],
    )


def cut_layers(runs: tuple[str, ...] = RUNS, first: int = 2) -> pl.DataFrame:
    """`layers`, with ranks that are ten higher without the first positions; block.1 has sinks."""
    every = layers(runs)
    sink = pl.when(site="block.1").then(pl.lit(["sink"])).otherwise("flags")
    whole = every.with_columns(flags=sink, first_position=pl.lit(0, pl.Int32))
    ranks = [pl.col(name) + 10 for name in ("participation_ratio", "effective_rank")]
    none = pl.lit([], pl.List(pl.String))
    cut = every.with_columns(*ranks, flags=none, first_position=pl.lit(first, pl.Int32))
    return pl.concat([cut, whole])


def eigenvalues(runs: tuple[str, ...] = RUNS, n: int = 100, site: str = "final") -> pl.DataFrame:
    """Spectra that fall as one over the rank."""
    total = sum(1 / rank for rank in range(1, n + 1))
    return typed(
        [
            {"run": run, "site": site, "context": 40, "prefix": 40, "n_prompts": 6, "depth": 4}
            | {"rank": rank, "eigenvalue": 3 / rank, "share": 1 / rank / total}
            for run in runs
            for rank in range(1, n + 1)
        ],
        EIGENVALUES_SCHEMA,
    )


def expert_load(runs: tuple[str, ...] = RUNS[:1]) -> pl.DataFrame:
    """Loads of four experts at two routers; no token chose the last."""
    return table(
        "expert_load",
        [
            {"run": run, "site": f"router.{k}", "depth": k, "context": 100, "n_prompts": 12}
            | {"first_position": 0, "n_experts": 4, "loads": [0.5, 0.3, 0.2, 0.0]}
            for run in runs
            for k in (1, 2)
        ],
    )


def cka(runs: tuple[str, ...] = RUNS, *, every: bool = False) -> pl.DataFrame:
    """CKA of neighbours among four sites, or of every two; one pair has no value."""
    sites = ("embed", "block.1", "block.2", "final")
    pairs = [*(combinations(sites, 2) if every else pairwise(sites))]
    return table(
        "cka",
        [
            {"run": run, "site": site, "other_site": other, "first_position": 0, "flags": []}
            | {"prefix": 100, "n_prompts": 12, "cka": None if (k, j) == (1, 1) else 0.9 - 0.125 * j}
            for k, run in enumerate(runs)
            for j, (site, other) in enumerate(pairs)
        ],
    )


class Picture:
    """A parsed SVG that `save_chart` wrote."""

    def __init__(self, chart: Any, folder: Path, **options: Any) -> None:
        self.text = save_chart(chart, folder / "chart.svg", **options).read_text()
        self.root = ET.fromstring(self.text)
        self.label = self.root.attrib["aria-label"]

    @property
    def marks(self) -> Counter[str]:
        """Number of marks of each kind that hold data, by their name for screen readers."""
        kinds = (e.attrib.get("aria-roledescription", "") for e in self.root.iter())
        return Counter(kind for kind in kinds if kind in MARKS)

    @property
    def words(self) -> list[str]:
        """Every text in the picture, in order."""
        return ["\n".join(e.itertext()) for e in self.root.iter() if e.tag.endswith("}text")]
