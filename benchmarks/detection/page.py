"""DETECTION.md and DOSES.md: tables between marks are made of results.json, words are written."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy.stats import spearmanr

from benchmarks import marked
from benchmarks.detection.damage import KINDS, NULL
from benchmarks.detection.power import Shown, bounds, realisations, share, shown
from benchmarks.detection.setting import DRAWN, SKIPPED
from benchmarks.marked import table
from lpp.store.shared.logits import Float32

PAGE: Final = "DETECTION.md"
DOSES: Final = "DOSES.md"
"""Tables that are too long for the page."""

RESULTS: Final = "results.json"
VALUES: Final = "draws.npz"
"""Every number on every draw of every dose: another rule needs no model."""

MOSTLY: Final = 0.8
"""Share of draws from which on a number notices a dose."""

SINK_DOSES: Final = ("round-channel-8", "round-group-4", "prune-20", "tune-16")
"""Doses of the table of sinks."""

_HOW: Final = ("with the sinks", "without")

Found = Mapping[str, Any]
Group = Sequence[Found]
"""The realisations of one dose."""


def write(found: Found, values: Mapping[str, Float32], folder: Path) -> None:
    """Write results.json and draws.npz into `folder`, and the tables of the pages there."""
    np.savez_compressed(folder / VALUES, allow_pickle=False, **values)
    text = json.dumps(found, separators=(",", ":"))
    (folder / RESULTS).write_text(re.sub(r'(\{"name":)', r"\n\1", text) + "\n", "utf-8")
    for page in (folder / PAGE, folder / DOSES):
        if page.exists():
            page.write_text(filled(page.read_text("utf-8"), found), "utf-8")


def filled(text: str, found: Found) -> str:
    """The page with every table made again. KeyError for a table that there is not."""
    return marked.filled(text, {name: partial(make, found) for name, make in TABLES.items()})


# tables


def doses_table(found: Found, first: int = DRAWN) -> str:
    """Every dose: value and error of each number of `final`, over all prompts."""
    numbers = [one for one in shown(found["middle"]) if one.site == "final"]
    size = _sizes(found)[-1]
    rows = []
    for dose in found["doses"]:
        cells = []
        for one in numbers:
            text = _with_error(*one.points(dose, first)[:2])
            beyond = first == DRAWN and dose["kind"] != NULL and _noticed([dose], one, size)
            cells.append(f"**{text}**" if beyond else text)
        rows.append([_title(dose, own=True), *cells])
    return table(["dose", *(one.name for one in numbers)], rows)


def kinds_table(_: Found) -> str:
    """Every kind of damage, why it is there and where it is from."""
    rows = [[kind.title, kind.unit or "none", kind.why, kind.source] for kind in KINDS.values()]
    return table(["damage", "dose", "why", "source"], rows)


def smallest_table(found: Found) -> str:
    """The weakest dose of each kind that each number notices, for the ends of the sizes."""
    every = realisations(found)
    kinds = list(dict.fromkeys(group[0]["kind"] for group in every))
    rows = []
    for one in shown(found["middle"]):
        cells = []
        for kind in kinds:
            own = [group for group in every if group[0]["kind"] == kind]
            cells.append(" / ".join(_weakest(own, one, size) for size in _sizes(found)))
        rows.append([one.name, *cells])
    return table(["number", *(KINDS[kind].title for kind in kinds)], rows)


def _weakest(own: Sequence[Group], one: Shown, size: str) -> str:
    """The first of doses of one kind, weakest first, that is noticed, with a star where a stronger
    one is not; of blocks, how many are.
    """
    hit = [_noticed(group, one, size) for group in own]
    if own[0][0]["kind"] == "block":
        return f"{sum(hit)} of {len(hit)}"
    if not any(hit):
        return "none"
    weakest = hit.index(True)
    return str(own[weakest][0]["label"]) + ("" if all(hit[weakest:]) else "*")


def _noticed(group: Group, one: Shown, size: str) -> bool:
    """Whether a number notices a dose in most draws."""
    return share(group, one, size) >= MOSTLY


def alarms_table(found: Found) -> str:
    """The threshold of each number, and how often a left-out null is beyond it."""
    rows = []
    for one in shown(found["middle"]):
        cells = []
        for size in _sizes(found):
            value, multiple, alarms, worst = found["thresholds"][one.name][size]
            cells.append([f"{value:.2g}", f"{multiple:.2f}", _percent(alarms), _percent(worst)])
        rows.append([one.name, *(" / ".join(pair) for pair in zip(*cells, strict=True))])
    heads = ["threshold", "over the mean of the nulls", "alarms, all nulls", "alarms, worst null"]
    return table(["number", *heads], rows)


def ranking_table(found: Found) -> str:
    """Of all doses how many each number notices, by prompts; how it orders them; which way it goes.

    In brackets: how many it notices by the lower and by the upper bound of each share of draws.
    """
    every = realisations(found)
    sizes = [str(size) for size in found["setting"]["sizes"]]
    kl = [_value(group, shown(found["middle"])[1]) for group in every]
    rows = []
    for one in shown(found["middle"]):
        counts = [_counts(every, one, size, found["setting"]["draws"]) for size in sizes]
        cells = [f"{count} ({low} to {high})" for count, low, high in counts]
        values = np.array([_value(group, one) for group in every])
        seen = np.array([_noticed(group, one, sizes[-1]) for group in every])
        up = int((values[seen] > 0).sum())
        way = f"{up} / {int(seen.sum()) - up}" if one.signed else ""
        rho = float(spearmanr(np.abs(values), kl).statistic)
        rows.append((counts, [one.name, *cells, f"{rho:.2f}", way]))
    rows.sort(key=lambda row: row[0], reverse=True)
    heads = [*(f"n = {size}" for size in sizes), "rank correlation with KL", "up / down"]
    return table(["number", *heads], [cells for _, cells in rows])


def _counts(every: Sequence[Group], one: Shown, size: str, draws: int) -> tuple[int, int, int]:
    """Doses noticed in most draws: by the share, by its lower and by its upper bound."""
    shares = [share(group, one, size) for group in every]
    ends = [(own, *bounds(own, draws)) for own in shares]
    count, low, high = (sum(end >= MOSTLY for end in part) for part in zip(*ends, strict=True))
    return count, low, high


def _value(group: Group, one: Shown) -> float:
    """Of a dose over all prompts, mean of realisations."""
    return float(np.mean([one.points(dose, DRAWN)[0] for dose in group]))


def random_table(found: Found) -> str:
    """Each random dose: share of draws on which each number notices it, mean and range of
    realisations.
    """
    numbers = shown(found["middle"])
    rows = []
    for group in realisations(found):
        if len(group) > 1:
            for size in _sizes(found):
                cells = [_spread([share([dose], one, size) for dose in group]) for one in numbers]
                rows.append([_title(group[0]), size, *cells])
    return table(["dose", "n", *(one.name for one in numbers)], rows)


def _spread(shares: Sequence[float]) -> str:
    """Per cent: the mean, and the range where there is one."""
    mean, low, high = (f"{100 * x:.0f}" for x in (np.mean(shares), min(shares), max(shares)))
    return mean if low == high else f"{mean} ({low} to {high})"


def sinks_table(found: Found) -> str:
    """Numbers of the middle block with the first two positions, and without them."""
    site = found["middle"]
    rows = []
    for dose in found["doses"]:
        if dose["name"] not in SINK_DOSES:
            continue
        cells = []
        for one in shown(site):
            if one.site == site and one.of != "relative_distance":
                cells += [_with_error(*one.points(dose, first)[:2]) for first in SKIPPED]
        rows.append([_title(dose), *cells])
    names = [f"{name}, {how}" for name in ("1 - CKA", "participation ratio") for how in _HOW]
    return table(["dose", *names], rows)


def unseen_table(found: Found) -> str:
    """Doses that perplexity does not notice with the largest draws, and what does."""
    first, *others = shown(found["middle"])
    size = _sizes(found)[-1]
    rows = []
    for group in realisations(found):
        if not _noticed(group, first, size):
            names = [one.name for one in others if _noticed(group, one, size)]
            missed = _percent(share(group, first, size))
            rows.append([_title(group[0]), missed, _brief(names)])
    return table(["dose", "log perplexity", f"numbers that do, n = {size}"], rows)


def _brief(names: Sequence[str]) -> str:
    """Names of `final`, then how many of the middle block."""
    final = [name for name in names if "," not in name]
    rest = len(names) - len(final)
    return ", ".join([*final, *([f"{rest} of the middle block"] if rest else [])]) or "nothing"


def cost_table(found: Found) -> str:
    """CPU seconds of everything."""
    parts = ("capture", "points", "draws")
    # exactly rounded: the plain sum of floats differs between releases of Python
    sums = [math.fsum(dose["cpu_seconds"][name] for dose in found["doses"]) for name in parts]
    cells = [str(len(found["doses"])), *(f"{total:.0f} s" for total in (*sums, math.fsum(sums)))]
    heads = ["models", "change and capture", "numbers over all prompts", "draws", "CPU time in all"]
    return table(heads, [cells])


def _sizes(found: Found) -> list[str]:
    every = [str(size) for size in found["setting"]["sizes"]]
    return [every[0], every[-1]]


TABLES: Final[Mapping[str, Callable[[Found], str]]] = {
    "kinds": kinds_table,
    "doses": doses_table,
    "doses-with-sinks": lambda found: doses_table(found, 0),
    "smallest": smallest_table,
    "random": random_table,
    "alarms": alarms_table,
    "ranking": ranking_table,
    "sinks": sinks_table,
    "unseen": unseen_table,
    "cost": cost_table,
}


def _title(dose: Found, own: bool = False) -> str:
    """Kind and amount of a dose. own: with the number of a further realisation."""
    seed = f", seed {dose['seed']}" if own and dose["seed"] else ""
    return f"{KINDS[dose['kind']].title}, {dose['label']}{seed}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _with_error(value: float | None, error: float | None) -> str:
    """A value rounded where its error begins: two digits of it.

    >>> _with_error(1.23456, 0.0123), _with_error(0.0, 0.0), _with_error(12.3, None)
    ('1.235 ± 0.012', '0', '12.3')
    """
    if value is None:
        return ""
    if not error:
        return f"{value:.3g}"
    digits = max(0, 1 - int(np.floor(np.log10(error))))
    if digits > 5:
        return f"{value:.2e} ± {error:.1e}"
    return f"{value:.{digits}f} ± {error:.{digits}f}"
