"""Databases as the commands write them, for any number of runs, sites and prefixes."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa

from lpp.analyze.scores.published import published_table
from lpp.sql import TABLES, arrow_schema, build

Row = dict[str, Any]
RANKS = ("participation_ratio", "effective_rank")


def make_store(root: Path, tables: Mapping[str, Iterable[Row]] | None = None) -> Path:
    """A store without runs; with `tables`, the rows of its database."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "lpp.json").write_text('{"format": "lpp-store", "version": 1}')
    if tables is not None:
        arrow = {
            name: pa.Table.from_pylist(list(rows), schema=arrow_schema(name))
            for name, rows in tables.items()
        }
        build(root, arrow | {"published": published_table()})
    return root


def database(
    models: Sequence[str],
    *,
    blocks: int = 6,
    prefixes: int = 10,
    context: int = 200,
    n_prompts: int = 100,
    prompt_set: str = "texts-1",
    flags: Sequence[str] = (),
    series: str | None = None,
) -> dict[str, list[Row]]:
    """Every table but `published`, for one run of each of `models`.

    Model k has effective rank 10 (k + 1) at `final`, with intervals of width 1, so all differ. The
    participation ratios are 5 + k / 100 with equal intervals, so neighbours do not. series: model k
    is its checkpoint at step 1000 k. Each model from the second on was compared with the first: its
    KL is k / 100, its share of flips k / 200. Model k answered 40 + k of 100 items of the task
    `quiz` correctly. The last site of each tells the label `topic` best; the first model's probe
    serves on the second model alone.
    """
    sites = ("embed", *(f"block.{k}" for k in range(1, blocks + 1)), "final")
    lengths = [context * (k + 1) // prefixes for k in range(prefixes)]
    found: dict[str, list[Row]] = {name: [] for name in TABLES if name != "published"}
    for place, model in enumerate(models):
        key: Row = {"run": run_id(place, model), "context": context, "n_prompts": n_prompts}
        key["first_position"] = 0
        about = {"model": model, "corpus": "pydoc", "prompt_set": prompt_set}
        profile = {**key, **about, "prefixes": lengths, "flags": list(flags)}
        checkpoint = {} if series is None else {"series": series, "step": 1000 * place}
        found["runs"].append(run_row(place, model, key, blocks, prompt_set) | checkpoint)
        for depth, site in enumerate(sites):
            deep = min(depth, blocks)
            values = profile_values(place, deep, blocks, lengths)
            found["site_profiles"].append({**profile, "site": site, **values})
            found["layers"].append(layer_row(key, site, deep, blocks, values))
            for prefix in lengths:
                row = {**key, "site": site, "prefix": prefix, "depth": deep}
                found["spectra"].append(row | spectrum_values(values, prefix, context, n_prompts))
        found["profiles"].append(found["site_profiles"][-1])
        found["jackknife"] += jackknife_rows(found["profiles"][-1], place)
        found["entropy"] += [entropy_row(key, place, prefix, context) for prefix in lengths]
        found["hourglass"].append(hourglass_row(key, place))
        found["benchmarks"].append(benchmark_row(key["run"], model, place))
        ends = {"value": 1.5 + place, "ci_low": 1.25 + place, "ci_high": 1.75 + place}
        metric = {"metric": "outlier_severity", "unit": "1", "flags": list(flags)}
        found["metrics"].append({**key, "site": "final", "prefix": context, **metric, **ends})
    found["correlations"] = correlation_rows(len(models))
    for place in range(1, len(models)):
        pair = {"run_a": run_id(0, models[0]), "run_b": run_id(place, models[place])}
        for name, some in drift_rows(pair, place, sites, n_prompts).items():
            found[name] += some
        found["probe_tests"] += probe_test_rows(pair, place, sites)
    for place, model in enumerate(models):
        run = run_id(place, model)
        for name, some in (*item_rows(run, place, sites).items(), *probe_rows(run, sites).items()):
            found[name] += some
    return found


def run_id(place: int, model: str) -> str:
    """The model's name, made unique, so that hostile names occur in every column that can hold
    them.
    """
    return f"{model}-{place:08x}"


def run_row(place: int, model: str, key: Row, blocks: int, prompt_set: str) -> Row:
    """A row of `runs`, with a plan."""
    plan = {
        "model": {"id": model, "weights": f"weights-{place}", "untrained_seed": None},
        "corpus": {"name": "pydoc", "prompt_set": prompt_set, "selection": {"prompts": 100}},
        "context": key["context"],
        "sites": [{"name": "final"}],
    }
    return {
        **key,
        "model": model,
        "architecture": "TinyForCausalLM",
        "n_parameters": 10**9 + place,
        "n_blocks": blocks,
        "hidden_size": 500,
        "logits_width": 1000,
        "tokenizer_size": 999,
        "corpus": "pydoc",
        "prompt_set": prompt_set,
        "n_tokens": 20000 + place,
        "logit_positions": "all",
        "compute_dtype": "float32",
        "stored_dtype": "float32",
        "backend": "torch",
        "plan_hash": f"hash-{place}",
        "plan": json.dumps(plan),
    }


def interval(name: str, value: float, half: float = 0.5) -> Row:
    """A number with its error and the ends of its interval."""
    return {
        name: value,
        f"{name}_stderr": half / 2,
        f"{name}_ci_low": value - half,
        f"{name}_ci_high": value + half,
    }


def profile_values(place: int, depth: int, blocks: int, lengths: Sequence[int]) -> Row:
    """The five numbers of a profile; narrow in the middle, `10 (k + 1)` at both ends."""
    waist = 1 - 0.8 * math.sin(math.pi * depth / blocks)
    rank, ratio = 10 * (place + 1) * waist, (5 + place / 100) * waist
    return {
        **interval("entropy_floor", 0.2 + place / 50, 0.001),
        **interval("participation_ratio", max(ratio, 1.001)),
        **interval("participation_ratio_norm", ratio / 500, 0.5 / 500),
        **interval("effective_rank", rank),
        **interval("effective_rank_norm", rank / 500, 0.5 / 500),
        "entropy_floor_prefix": lengths[-1],
        "participation_ratio_prefix": lengths[-2],
        "participation_ratio_norm_prefix": lengths[-2],
        "effective_rank_prefix": lengths[-1],
        "effective_rank_norm_prefix": lengths[-1],
    }


def jackknife_rows(profile: Row, place: int) -> Iterator[Row]:
    """Each number without each of ten groups; for each run another group changes it."""
    for metric in ("entropy_floor", *RANKS, *(f"{rank}_norm" for rank in RANKS)):
        # the error is sqrt(9/10 (m^2 - m^2 / 10))
        moved = profile[f"{metric}_stderr"] * 10 / 9
        key = {name: profile[name] for name in ("run", "site", "context", "n_prompts")}
        key |= {"metric": metric, "prefix": profile[f"{metric}_prefix"], "first_position": 0}
        for group in range(10):
            value = profile[metric] + moved * (group == place % 10)
            yield {**key, "prompt_group": group, "value": value, "student_t": 2.0}


def spectrum_values(values: Row, prefix: int, context: int, n_prompts: int) -> Row:
    """One prefix's spectrum: ranks grow with the square root of its length."""
    share = math.sqrt(prefix / context)
    out: Row = {"n_tokens": prefix * n_prompts, "dim": 500, "rank_bound": 500}
    for name in RANKS:
        out |= interval(name, values[name] * share)
        out |= interval(f"{name}_norm", values[name] * share / 500, 0.001)
    return out | interval("top_share", 0.3 + 0.001 * prefix, 0.01)


def layer_row(key: Row, site: str, depth: int, blocks: int, values: Row) -> Row:
    """A row of `layers`; those of the waist are collapsed."""
    out: Row = {**key, "site": site, "depth": depth, "relative_depth": depth / blocks}
    out |= {"n_tokens": key["context"] * key["n_prompts"], "rank_bound": 500, "top_share": 0.4}
    for family, rank in product(("", "zscore_", "robust_"), RANKS):
        value = values[rank] * (1.5 if family else 1)
        out |= {f"{family}{rank}": value, f"{family}{rank}_stderr": 0.1}
        out |= {f"{family}{rank}_norm": value / 500}
    collapsed = values["participation_ratio"] < 1.01
    return out | {"flags": ["collapsed"] if collapsed else []}


def entropy_row(key: Row, place: int, prefix: int, context: int) -> Row:
    """A row of `entropy`: falling with the prefix."""
    share = 0.4 + place / 50 - 0.2 * prefix / context
    return {
        **key,
        "prefix": prefix,
        **interval("entropy", share * math.log(1000), 0.05),
        **interval("entropy_norm", share, 0.01),
        "short_prompts": 3,
        "distinct_prefixes": 0.97,
    }


def hourglass_row(key: Row, place: int) -> Row:
    """A row of `hourglass`."""
    ends = {"first": 20.0 + place, "middle": 10.0, "last": 22.0 + place}
    counts = {"n_layers": 5, "n_collapsed": 1, "n_missing": 0}
    metric = "zscore_effective_rank"
    return {**key, "metric": metric, "score": 0.33 + place / 100, **ends, **counts}


def benchmark_row(run: str, model: str, place: int) -> Row:
    """A score for each run."""
    return {
        **{"model": model, "run": run, "benchmark": "BBH", "metric": "score", "source": "mine"},
        **{"kind": "csv", "value": 30.0 + place, "stderr": 0.7, "n": 250, "matched": "exact"},
        "match_note": "",
    }


def correlation_rows(n_models: int) -> list[Row]:
    """Two metrics with one benchmark, three methods."""
    out = []
    for place, (metric, method) in enumerate(
        product(("entropy_floor", "effective_rank"), ("pearson", "spearman", "rank_partial"))
    ):
        out.append(
            {
                "profile_metric": metric,
                "benchmark": "BBH",
                "benchmark_metric": "score",
                "source": "mine",
                "method": method,
                "controlled_for": "n_parameters" if method == "rank_partial" else "",
                "site": "final",
                "context": 200,
                "n_prompts": 100,
                "n_models": n_models,
                "coefficient": -0.7 + place / 5,
                "ci_low": -0.9 + place / 5,
                "ci_high": -0.5 + place / 5,
                "p_value": 0.03 + place / 100,
                "q_value": 0.06 + place / 100,
                "family_size": 2,
                "models": [],
                "flags": ["few_models"],
                "left_out": [],
            }
        )
    return out


def drift_rows(pair: Row, place: int, sites: Sequence[str], n_prompts: int) -> dict[str, list[Row]]:
    """A comparison: rows of the three tables. Distances grow with depth; token 0 did not change."""
    setting = {**pair, "n_prompts": n_prompts, "first_position": 0}
    means = {"kl": place / 100, "flips": place / 200, "next_logprob": place / 10}
    predictions = [
        {
            **setting,
            **{"n_drawn": 0, "number": name, "unit": "share" if name == "flips" else "nats"},
            **{"mean": mean, "median": mean / 2, "p99": 4 * mean, "maximum": 10 * mean},
            **{"stderr": mean / 10, "ci_low": 0.8 * mean, "ci_high": 1.2 * mean, "n_tokens": 90},
        }
        for name, mean in means.items()
    ]
    rows = []
    for depth, site in enumerate(sites):
        distance = place * (depth + 1) / 1000
        numbers = interval("relative_distance", distance, distance / 5)
        numbers |= interval("cosine", 1 - distance, distance / 5)
        numbers |= interval("cka", 1 - distance**2, distance**2 / 5)
        numbers |= {"overlap": 0.9, "participation_ratio": -0.1, "effective_rank": 0.2}
        numbers |= {"depth": min(depth, len(sites) - 2), "n_tokens": 90, "flags": ["no_error"]}
        rows.append({**setting, "site": site, **numbers})
    tokens = [
        {
            **pair,
            **{"prompt_id": at // 30, "position": at % 30, "token_id": at},
            **{"kl": place / 1000 * at, "kl_reverse": 0.1, "js": 0.01, "tv": 0.02, "top10": 0.9},
            **{"flip": at % 7 == 0, "next_logprob_a": -1.0, "next_logprob_b": -1.0 - at},
        }
        for at in range(90)
    ]
    return {"drift_predictions": predictions, "drift_sites": rows, "drift_tokens": tokens}


def item_rows(run: str, place: int, sites: Sequence[str]) -> dict[str, list[Row]]:
    """An analysis of items: rows of the four tables. `answer_gap` beats the baseline."""
    key: Row = {"source": "mine", "task": "quiz", "run": run, "filter": "none"}
    key |= {"skip_first": 0, "seed": 0}
    right = 40 + place
    analysis = {
        **key,
        **{"n_right": right, "n_wrong": 100 - right, "n_left_out": 0, "n_groups": 2},
        **{"accuracy": right / 100, "accuracy_ci_low": 0.3, "accuracy_ci_high": 0.5},
        **{"n_within": 0, "ece": 0.2, "ece_ci_low": 0.1, "ece_ci_high": 0.3},
        **{"ece_calibrated": 0.05, "ece_by_chance": 0.09, "risk_by": "chosen_share"},
        **{"risk_area": 0.4, "risk_best": 0.2, "flags": ["small_groups"]},
    }

    def feature(name: str, role: str, auroc: float, q: float, **at: Any) -> Row:
        found = {**key, "feature": name, "role": role, "site": "", "unit": "1"} | at
        found |= {"n_right": right, "n_wrong": 100 - right, "q_value": q}
        found |= {"auroc": auroc, "ci_low": auroc - 0.1, "ci_high": auroc + 0.1, "p_value": q / 2}
        return found | {"shuffled_mean": 0.5, "shuffled_low": 0.4, "shuffled_high": 0.6}

    features = [
        feature("answer_length", "baseline", 0.55, 0.4),
        feature("answer_gap", "statistic", 0.8, 0.001),
        feature("answer_entropy", "statistic", 0.45, 0.5),
    ]
    for depth, site in enumerate(sites):
        at = {"site": site, "depth": min(depth, len(sites) - 2)}
        features.append(feature("row_norm", "rows", 0.5 + depth / 100, 0.3, **at))
    bins = [
        {**key, "bin": k, "n": 20, "confidence": 0.2 + k / 6, "accuracy": 0.1 + k / 6}
        | {"accuracy_ci_low": k / 6, "accuracy_ci_high": 0.3 + k / 6}
        for k in range(5)
    ]
    risk = [
        {**key, "n_answered": n, "coverage": n / 100, "risk": (100 - right) / 100 * n / 100}
        for n in range(10, 101, 10)
    ]
    return {
        "item_analyses": [analysis],
        "item_features": features,
        "item_reliability": bins,
        "item_risk": risk,
    }


PROBE_KEY: Row = {
    **{"label": "topic", "task": "", "source": "", "score_filter": "", "rows": "last"},
    **{"skip_first": 0, "group_field": "", "cluster_field": "", "folds": 5, "seed": 0},
}


def probe_rows(run: str, sites: Sequence[str]) -> dict[str, list[Row]]:
    """Probes of a label: rows of `probes` and `probe_reliability`. The last site is the best."""
    key = {"run": run, **PROBE_KEY}
    probes = [
        {**key, "probe": name, "role": role, "is_best": name == sites[-1], "n_prompts": 200}
        | {"classes": ["sport", "news"], "n_second": 90, "flags": ["independent_prompts"]}
        | {"depth": min(k, len(sites) - 2) if role == "site" else None, "chance_q": 0.001}
        | interval("probe_auroc", 0.6 + k / (4 * len(sites)), 0.05)
        | ({"control": "length", "q_value": 0.01} if role == "site" else {"control": ""})
        | (interval("probe_gain", 0.05 + k / (4 * len(sites)), 0.04) if role == "site" else {})
        for role, names in (("site", sites), ("control", ("length", "tokens")))
        for k, name in enumerate(names)
    ]
    bins = [
        {**key, "probe": name, "bin": k, "n": 20, "confidence": 0.1 + k / 5}
        | interval("accuracy", 0.12 + k / 6, 0.1)
        for name in (sites[-1], "length")
        for k in range(5)
    ]
    return {"probes": probes, "probe_reliability": bins}


def probe_test_rows(pair: Row, place: int, sites: Sequence[str]) -> list[Row]:
    """A test of the first model's probes on another: rows of `probe_tests`."""
    lost = 0.01 if place == 1 else 0.3
    return [
        {"run": pair["run_a"], "run_b": pair["run_b"], "label_b": "", **PROBE_KEY}
        | {"probe": site, "site_b": site, "depth": min(depth, len(sites) - 2), "n_prompts": 200}
        | {"is_best": site == sites[-1], "flagged": 0.4 - lost, "reference_flagged": 0.4}
        | {"verdict": "PASS" if place == 1 else "SCORER DEGRADED", "margin": 0.05, "flags": []}
        | interval("probe_auroc", 0.8, 0.05)
        | interval("tested_auroc", 0.8 - lost, 0.05)
        | interval("probe_auroc_change", -lost, 0.02)
        | interval("probe_flagged_change", -lost, 0.02)
        for depth, site in enumerate(sites)
    ]
