"""Every number of one changed model: over all prompts, by the package; on draws, from its rows."""

import io
import json
import math
import time
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final

import numpy as np
import polars as pl

from benchmarks.detection.damage import Dose
from benchmarks.detection.draws import Floats, Integers, Numbers, jackknife_weights
from benchmarks.detection.numbers import Floor, Mean, Rows, SquaredNorm, effective_ranks
from benchmarks.detection.runs import BASE, captured, removed
from benchmarks.detection.setting import DRAWN, SKIPPED, Setting
from lpp.analyze.drift.pair import Pair, pair_of
from lpp.analyze.drift.predictions import token_drift
from lpp.analyze.drift.sites import site_drift
from lpp.analyze.drift.summaries import Summary, entropy_drift, prediction_drift
from lpp.analyze.numerics.distance import row_drift
from lpp.analyze.numerics.jackknife import jackknife
from lpp.analyze.runs.keys import RunView
from lpp.store import Run
from lpp.store.format.schedule import prefix_schedule
from lpp.store.objects.disk import make_directory, replace_file
from lpp.store.shared.logits import Float32

OF_TOKENS: Final = ("log_perplexity", "kl", "flips", "entropy")
FLOOR: Final = "entropy_floor"
RANK: Final = "effective_rank"
OF_SITES: Final[tuple[str, ...]] = ("relative_distance", "cka", "participation_ratio", RANK)

Draws = dict[str, Floats]
"""By `key`: (sizes, draws) values."""


def key(name: str, site: str) -> str:
    """Name of a number in a file of draws. site: `final` for a number of the predictions."""
    return f"{name} {site}"


def measured(setting: Setting, dose: Dose) -> str:
    """Capture a dose, write what is measured of it, remove its rows; nothing is done twice.

    Returns a line for the log.
    """
    if setting.points(dose.name).exists():
        return f"{dose.name}: there"
    clock = [time.process_time()]
    base = base_of(setting)
    pair = pair_of(base.run, captured(setting, dose))
    clock.append(time.process_time())
    frame = token_drift(pair, only=("kl", "flip"), jobs=1)
    points = {str(first): over_all(setting, pair, frame, first) for first in SKIPPED}
    clock.append(time.process_time())
    arrays = on_all_draws(setting, pair, frame)
    clock.append(time.process_time())
    seconds = dict(
        zip(("capture", "points", "draws"), np.diff(clock).round(1).tolist(), strict=True)
    )
    document = {
        "name": dose.name,
        "kind": dose.kind,
        "amount": dose.amount,
        "label": dose.label,
        "seed": dose.seed,
        "run": pair.b.run.id,
        "tokens": len(frame),
        "cpu_seconds": seconds,
        "points": points,
    }
    make_directory(setting.points(dose.name).parent)
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    replace_file(setting.draws_of(dose.name), stream.getvalue())
    replace_file(setting.points(dose.name), json.dumps(document, indent=1).encode())
    if not setting.keep:
        removed(setting, dose)
    return f"{dose.name}: CPU seconds {seconds}"


# over all prompts


def over_all(setting: Setting, pair: Pair, frame: pl.DataFrame, first: int) -> dict[str, Any]:
    """[value, error, ends of the interval] of each number over all prompts, of tokens from `first`
    on. frame: of `token_drift`, from position 0 on.
    """
    predicted = prediction_drift(frame.filter(pl.col("position") >= first))
    predicted["entropy"] = entropy_drift(pair, first_position=first)
    floor = floor_of(pair)(jackknife_weights(pair.n_prompts))
    sites = site_drift(
        pair,
        setting.sites,
        first_position=first,
        errors="all" if first else "final",  # a solve for each of ten groups, at each site
        only=OF_SITES,
        jobs=1,
    )
    return {
        **{name: _listed(predicted[name]) for name in OF_TOKENS},
        FLOOR: list(jackknife(float(floor[0]), floor[1:].tolist())[:4]),
        "sites": {
            one.site: {name: list(getattr(one, name)[:4]) for name in OF_SITES} for one in sites
        },
    }


def _listed(one: Summary) -> list[float | None]:
    return [one.mean, one.stderr, one.ci_low, one.ci_high]


# on draws


@dataclass(frozen=True)
class BaseSite:
    """The rows of a site of the base, and what of them every dose needs."""

    setting: Setting
    values: Float32
    """(N, d)"""
    starts: Integers
    """(P,) where each prompt begins."""

    @cached_property
    def rows(self) -> Rows:
        """For products."""
        return Rows.about_mean(self.values.astype(np.float64), self.starts)

    @cached_property
    def norm(self) -> SquaredNorm:
        """Of the scatter."""
        return SquaredNorm(self.rows, self.rows, self.rows.products(self.rows))

    @cached_property
    def ranks(self) -> Floats:
        """Of `rank_draws`."""
        return rank_draws(self.setting, self.rows)


class Base:
    """The unchanged model's run."""

    def __init__(self, setting: Setting) -> None:
        self.run = captured(setting, BASE)
        self._setting = setting
        self._sites: dict[str, BaseSite] = {}

    def site(self, site: str) -> BaseSite:
        """A site, at the positions of the draws."""
        if site not in self._sites:
            rows = site_rows(self.run, self._setting.prompts, site)
            self._sites[site] = BaseSite(self._setting, *rows)
        return self._sites[site]


@lru_cache(maxsize=1)
def base_of(setting: Setting) -> Base:
    """Captured, or read again, once in a process."""
    return Base(setting)


def on_all_draws(setting: Setting, pair: Pair, frame: pl.DataFrame) -> Draws:
    """Every number on every draw, of tokens from position `DRAWN` on."""
    found: Draws = {}

    def add(numbers: Numbers, site: str) -> None:
        parts = [numbers(some) for some in setting.weights]
        for name in parts[0]:
            found[key(name, site)] = np.stack([part[name] for part in parts])

    add(predicted_numbers(pair, frame), "final")
    for site in (setting.middle, "final"):
        base = base_of(setting).site(site)
        values, starts = site_rows(pair.b.run, pair.n_prompts, site)
        rows = Rows.about_mean(values.astype(np.float64), starts)
        distance = row_drift(base.values, values).relative_distance
        moved = Mean(np.add.reduceat(distance, starts), rows.counts)
        add(site_numbers(base, rows, moved), site)
    found[key(RANK, "final")] = rank_draws(setting, rows) - base.ranks
    return found


def predicted_numbers(pair: Pair, frame: pl.DataFrame, first: int = DRAWN) -> Numbers:
    """Numbers of the predictions, of tokens from position `first` on."""
    before, after = (pair.statistics[name].cast(pl.Float64) for name in ("entropy_a", "entropy_b"))
    by_prompt = (
        frame.select(
            "prompt_id",
            "position",
            log_perplexity=pl.col("next_logprob_a").cast(pl.Float64) - pl.col("next_logprob_b"),
            kl="kl",
            flips=pl.col("flip").cast(pl.Float64),
            entropy=after - before,
        )
        .filter(pl.col("position") >= first)
        .group_by("prompt_id", maintain_order=True)
        .agg(
            part
            for name in OF_TOKENS
            for part in (pl.col(name).sum(), pl.col(name).count().alias(f"{name}_count"))
        )
    )
    means = {
        name: Mean(by_prompt[name].to_numpy(), by_prompt[f"{name}_count"].to_numpy())
        for name in OF_TOKENS
    }
    floor = floor_of(pair)
    return lambda chosen: {
        **{name: mean(chosen) for name, mean in means.items()},
        FLOOR: floor(chosen),
    }


def floor_of(pair: Pair) -> Floor:
    """Entropy over ln V after each prefix of both runs. Prefixes begin at the first token, so it is
    the same whatever positions are compared.
    """
    return Floor(
        _entropies(pair, pair.a, "entropy_a"),
        _entropies(pair, pair.b, "entropy_b"),
    )


def _entropies(pair: Pair, view: RunView, column: str) -> Floats:
    """Entropy of one of the runs of `pair` over ln V, (P, L)."""
    ends = np.minimum.outer(pair.lengths, prefix_schedule(view.run.plan.context)) - 1
    starts = np.flatnonzero(np.diff(pair.statistics["prompt_id"].to_numpy(), prepend=-1))
    found: Floats = pair.statistics[column].to_numpy().astype(np.float64)[starts[:, None] + ends]
    return found / math.log(view.run.plan.model.logits_width)


def site_rows(run: Run, prompts: int, site: str, first: int = DRAWN) -> tuple[Float32, Integers]:
    """(N, d) rows of a site at positions from `first` on, and (P,) where each prompt begins."""
    parts, ids = [], []
    for block in run.blocks(site, prompts=prompts):
        wanted = block.position >= first
        parts.append(block.values[wanted])
        ids.append(block.prompt_id[wanted])
    return np.concatenate(parts), np.flatnonzero(np.diff(np.concatenate(ids), prepend=-1))


def site_numbers(base: BaseSite, rows: Rows, moved: Mean) -> Numbers:
    """Numbers of a site but for the effective rank, of rows beside those of the base."""
    norm = SquaredNorm(rows, rows, rows.products(rows))
    cross = SquaredNorm(base.rows, rows, base.rows.products(rows))

    def numbers(chosen: Floats) -> dict[str, Floats]:
        before, after = base.norm(chosen), norm(chosen)
        ratios = [
            one.traces(chosen) ** 2 / square for one, square in ((base.rows, before), (rows, after))
        ]
        return {
            "relative_distance": moved(chosen),
            "cka": cross(chosen) / np.sqrt(before * after),
            "participation_ratio": ratios[1] - ratios[0],
        }

    return numbers


def rank_draws(setting: Setting, rows: Rows) -> Floats:
    """(sizes, draws) effective ranks of the rows of one run."""
    products = rows.products(rows)
    return np.stack([effective_ranks(rows, products, some) for some in setting.weights])
