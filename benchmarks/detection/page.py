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
from benchmarks.detection.power import Shown, damaged, noticed, null_range, shown
from benchmarks.marked import table

PAGE: Final = "DETECTION.md"
DOSES: Final = "DOSES.md"
"""Tables that are too long for the page."""

RESULTS: Final = "results.json"

MOSTLY: Final = 0.8
"""Share of draws from which on a number notices a dose."""

SINK_DOSES: Final = ("round-channel-8", "round-group-4", "prune-20", "tune-16")
"""Doses of the table of sinks."""

_HOW: Final = ("with the sinks", "without")

Found = Mapping[str, Any]


def write(found: Found, folder: Path) -> None:
    """Write results.json into `folder`, and its tables into the pages that lie there."""
    text = json.dumps(found, separators=(",", ":"))
    (folder / RESULTS).write_text(re.sub(r'(\{"name":)', r"\n\1", text) + "\n", "utf-8")
    for page in (folder / PAGE, folder / DOSES):
        if page.exists():
            page.write_text(filled(page.read_text("utf-8"), found), "utf-8")


def filled(text: str, found: Found) -> str:
    """The page with every table made again. KeyError for a table that there is not."""
    return marked.filled(text, {name: partial(make, found) for name, make in TABLES.items()})


# tables


def doses_table(found: Found, first: int = 2) -> str:
    """Every dose: value and error of each number of `final`, over all prompts."""
    numbers = [one for one in shown(found["middle"]) if one.site == "final"]
    rows = []
    for dose in found["doses"]:
        name = f"{KINDS[dose['kind']].title}, {dose['label']}"
        cells = []
        for one in numbers:
            value, error = one.points(dose, first)[:2]
            text = _with_error(value, error)
            beyond = dose["kind"] != NULL and noticed(found, dose, one, first)
            cells.append(f"**{text}**" if beyond else text)
        rows.append([name, *cells])
    return table(["dose", *(one.name for one in numbers)], rows)


def kinds_table(_: Found) -> str:
    """Every kind of damage, why it is there and where it is from."""
    rows = [[kind.title, kind.unit or "none", kind.why, kind.source] for kind in KINDS.values()]
    return table(["damage", "dose", "why", "source"], rows)


def smallest_table(found: Found, first: int, sizes: Sequence[str]) -> str:
    """The weakest dose of each kind that each number notices, for each size of a draw."""
    kinds = [kind for kind in KINDS if any(dose["kind"] == kind for dose in damaged(found))]
    rows = []
    for one in shown(found["middle"]):
        cells = []
        for kind in kinds:
            own = [dose for dose in damaged(found) if dose["kind"] == kind]
            cells.append(" / ".join(_weakest(own, one, first, size) for size in sizes))
        if any(dose["power"][str(first)].get(one.name) for dose in damaged(found)):
            rows.append([one.name, *cells])
    return table(["number", *(KINDS[kind].title for kind in kinds)], rows)


def _weakest(own: list[dict[str, Any]], one: Shown, first: int, size: str) -> str:
    """The first of doses of one kind, weakest first, that is noticed, with a star where a stronger
    one is not; of blocks, how many are.
    """
    seen = [_share(dose, one, first, size) for dose in own]
    if any(share is None for share in seen):
        return ""
    hit = [share is not None and share >= MOSTLY for share in seen]
    if own[0]["kind"] == "block":
        return f"{sum(hit)} of {len(hit)}"
    if not any(hit):
        return "none"
    weakest = hit.index(True)
    return str(own[weakest]["label"]) + ("" if all(hit[weakest:]) else "*")


def _share(dose: Found, one: Shown, first: int, size: str, rule: int = 1) -> float | None:
    powers = dose["power"][str(first)].get(one.name)
    return None if powers is None else powers[size][rule]


def alarms_table(found: Found, first: int = 2) -> str:
    """What each number says of the nulls, and how often each rule calls a null a change."""
    nulls = [dose for dose in found["doses"] if dose["kind"] == NULL]
    moved = [dose for dose in nulls if dose["points"][str(first)]["kl"][0] > 0]
    sizes = [str(size) for size in found["setting"]["sizes"]]
    rows = []
    for one in shown(found["middle"]):
        low, high = null_range(found, one, first)
        shares = [
            [[dose["power"][str(first)][one.name][size][rule] for size in sizes] for dose in moved]
            for rule in (0, 1)
        ]
        cells = [_percent(float(np.mean(some))) for some in shares]
        cells.append(_percent(max((float(np.mean(own)) for own in shares[1]), default=0.0)))
        rows.append([one.name, f"{low:.2g} to {high:.2g}", *cells])
    heads = ["number", "range of the nulls", "leaves 0", "leaves the other nulls", "worst null"]
    return table(heads, rows)


def ranking_table(found: Found) -> str:
    """Of all doses how many each number notices, by prompts; how it orders them; which way it goes.

    The first number of a cell is without the first two positions, the second with them.
    """
    every = list(damaged(found))
    sizes = [str(size) for size in found["setting"]["sizes"]]
    ends = _sizes(found)
    kl = [dose["points"]["2"]["kl"][0] for dose in every]
    rows = []
    for one in shown(found["middle"]):
        counts = [[_count(every, one, first, size) for first in (2, 0)] for size in sizes]
        seen = np.array([noticed(found, dose, one, 2) for dose in every])
        values = np.array([one.points(dose, 2)[0] for dose in every], dtype=np.float64)
        rho = float(spearmanr(np.abs(values), kl).statistic)
        up = int((values[seen] > 0).sum())
        cells = [" / ".join(str(n) for n in pair if n is not None) for pair in counts]
        way = f"{up} / {int(seen.sum()) - up}" if one.signed else ""
        order = [pair[0] or 0 for pair in counts]
        zero = [_count(every, one, 2, size, rule=0) if one.signed else None for size in ends]
        cells += [str(int(seen.sum())), *("" if n is None else str(n) for n in zero)]
        rows.append((order, [one.name, *cells, f"{rho:.2f}", way]))
    rows.sort(key=lambda row: row[0], reverse=True)
    heads = ["number", *(f"n = {size}" for size in sizes), "all"]
    heads += [*(f"leaves 0, n = {size}" for size in ends), "rank correlation with KL", "up / down"]
    return table(heads, [cells for _, cells in rows])


def _count(every: Sequence[Found], one: Shown, first: int, size: str, rule: int = 1) -> int | None:
    """Doses that a number notices in most draws. rule: 0 to leave 0, 1 to leave the null."""
    shares = [_share(dose, one, first, size, rule) for dose in every]
    if any(share is None for share in shares):
        return None
    return sum(share is not None and share >= MOSTLY for share in shares)


def sinks_table(found: Found) -> str:
    """Numbers of the middle block with the first two positions, and without them."""
    site = found["middle"]
    rows = []
    for dose in damaged(found):
        if dose["name"] not in SINK_DOSES:
            continue
        cells = []
        for one in shown(site):
            if one.site == site and one.of != "relative_distance":
                cells += [_with_error(*one.points(dose, first)[:2]) for first in (0, 2)]
        rows.append([f"{KINDS[dose['kind']].title}, {dose['label']}", *cells])
    names = [f"{name}, {how}" for name in ("1 - CKA", "participation ratio") for how in _HOW]
    return table(["dose", *names], rows)


def unseen_table(found: Found, first: int = 2) -> str:
    """Doses whose perplexity stays within the nulls, and what moved beyond them."""
    numbers = shown(found["middle"])
    rows = []
    for dose in damaged(found):
        if noticed(found, dose, numbers[0], first):
            continue
        names = [one.name for one in numbers[1:] if noticed(found, dose, one, first)]
        value, error = numbers[0].points(dose, first)[:2]
        rows.append(
            [
                f"{KINDS[dose['kind']].title}, {dose['label']}",
                _with_error(value, error),
                _brief(names),
            ]
        )
    return table(["dose", "log perplexity", "what left the null, all prompts"], rows)


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
    "smallest": lambda found: smallest_table(found, 2, _sizes(found)),
    "smallest-with-sinks": lambda found: smallest_table(found, 0, _sizes(found)),
    "alarms": alarms_table,
    "ranking": ranking_table,
    "sinks": sinks_table,
    "unseen": unseen_table,
    "cost": cost_table,
}


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
