"""DETECTION.md: the tables between its marks are made of results.json, the words are written."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy.stats import spearmanr

from benchmarks.detection.damage import KINDS, NULL
from benchmarks.detection.power import Shown, damaged, noticed, null_range, shown

PAGE: Final = "DETECTION.md"
RESULTS: Final = "results.json"

MOSTLY: Final = 0.8
"""Share of draws from which on a number notices a dose."""

_TABLE: Final = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Found = Mapping[str, Any]


def write(found: Found, folder: Path) -> None:
    """Write results.json into `folder`, and its tables into the page that lies there."""
    text = json.dumps(found, separators=(",", ":"))
    (folder / RESULTS).write_text(re.sub(r'(\{"name":)', r"\n\1", text) + "\n", "utf-8")
    page = folder / PAGE
    if page.exists():
        page.write_text(filled(page.read_text("utf-8"), found), "utf-8")


def filled(text: str, found: Found) -> str:
    """The page with every table made again. KeyError for a table that there is not."""
    return _TABLE.sub(lambda mark: f"{mark[1]}{TABLES[mark[2]](found)}\n{mark[3]}", text)


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
    return _table(["dose", *(one.name for one in numbers)], rows)


def kinds_table(_: Found) -> str:
    """Every kind of damage, why it is there and where it is from."""
    rows = [[kind.title, kind.unit, kind.why, kind.source] for kind in KINDS.values()]
    return _table(["damage", "dose", "why", "source"], rows)


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
    return _table(["number", *(KINDS[kind].title for kind in kinds)], rows)


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


def _share(dose: Found, one: Shown, first: int, size: str) -> float | None:
    powers = dose["power"][str(first)].get(one.name)
    return None if powers is None else powers[size][1]


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
    return _table(heads, rows)


def order_table(found: Found, first: int = 2) -> str:
    """How each number orders the doses beside KL, and which way it moves."""
    every = list(damaged(found))
    kl = [dose["points"][str(first)]["kl"][0] for dose in every]
    rows = []
    for one in shown(found["middle"]):
        values = np.array([one.points(dose, first)[0] for dose in every], dtype=np.float64)
        seen = np.array([noticed(found, dose, one, first) for dose in every])
        rho = float(spearmanr(np.abs(values), kl).statistic)
        up = int((values[seen] > 0).sum())
        way = f"{up} up, {int(seen.sum()) - up} down" if one.signed else f"{int(seen.sum())}"
        rows.append([one.name, f"{rho:.2f}", way])
    return _table(["number", "rank correlation of its size with KL", "doses noticed"], rows)


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
                ", ".join(names) or "nothing",
            ]
        )
    return _table(["dose", "log perplexity", "what left the null, all prompts"], rows)


def cost_table(found: Found) -> str:
    """CPU seconds by kind."""
    rows = []
    for kind, group in groupby(found["doses"], key=lambda dose: dose["kind"]):
        own = [dose["cpu_seconds"] for dose in group]
        sums = [sum(one[name] for one in own) for name in ("capture", "points", "draws")]
        rows.append([KINDS[kind].title, str(len(own)), *(f"{total:.0f}" for total in sums)])
    totals = [sum(float(row[k]) for row in rows) for k in range(1, 5)]
    rows.append(["all", *(f"{total:.0f}" for total in totals)])
    return _table(["damage", "doses", "capture", "over all prompts", "on draws"], rows)


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
    "order": order_table,
    "unseen": unseen_table,
    "cost": cost_table,
}


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
