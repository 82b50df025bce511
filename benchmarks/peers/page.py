"""results.json, and the tables of documents that are made of it."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks import marked
from benchmarks.marked import table
from benchmarks.peers.measure import median
from benchmarks.peers.sides import REFERENCE, SIDES, Task

RESULTS: Final = "results.json"
PAGE: Final = "README.md"
"""The page of this comparison, beside the results; that of all benchmarks, one folder above; and
that of the project, two above."""

TIMES: Final = ("whole_s", "work_s", "cpu_s")
COSTS: Final = ("whole process", "work alone", "CPU seconds", "peak memory")
"""Columns of both tables. CPU seconds are those of the whole process, on all cores."""

Found = Mapping[str, Any]


def write(found: Found, folder: Path) -> None:
    """Write results.json into `folder`, and its tables into the pages there and above."""
    (folder / RESULTS).write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    for page in (folder / PAGE, folder.parent / PAGE, folder.parent.parent / PAGE):
        if page.exists():
            page.write_text(filled(page.read_text("utf-8"), found), "utf-8")


def filled(text: str, found: Found) -> str:
    """The page with every table of these results made again."""
    return marked.filled(text, {name: partial(make, found) for name, make in TABLES.items()})


def setting_line(found: Found) -> str:
    """When, on what and of which releases."""
    on, of = found["machine"], found["setting"]
    releases = [f"{name} {number}" for name, number in found["versions"].items()]
    parts = [
        f"{found['date']}: {_count(of['rounds'], 'round')} on {on['cores']} cores "
        f"({on['processor']}, {on['memory_gib']:.0f} GiB; load average {on['load_average']:g} "
        f"before the first round). {of['states']} prompts of {of['context']} tokens, "
        f"{of['profile']} for the profile. {', '.join(releases)}.",
        "Other work ran, so the tables leave its times out." if busy(found) else "",
        found["note"],
    ]
    return " ".join(part for part in parts if part)


def busy(found: Found) -> bool:
    """Whether more work than cores waited before the first round: then times compare nothing."""
    return bool(found["machine"]["load_average"] > found["machine"]["cores"])


def states_table(found: Found) -> str:
    """Hidden states of every site and entropies, on disk."""
    sides = _sides(found, "states")
    rows = []
    for name, side in sides.items():
        kept = SIDES[name].keeps
        cells = [SIDES[name].title, *_costs(side), _ratio(side, sides.get("bare"))]
        cells += [f"{side['bytes'] / 1e6:,.0f} MB" if kept else "–"]
        rows.append([*cells, _difference(found, name, "rows"), _difference(found, name, "entropy")])
    heads = ["side", *COSTS, "work / bare forward pass", "on disk"]
    return table([*heads, "rows differ by", "entropies differ by, nats"], rows)


def profile_table(found: Found) -> str:
    """Entropy, PR and ER of `final` at ten prefixes."""
    sides = _sides(found, "profile")
    ours = sides.get("lpp-profile")
    rows = [
        [
            SIDES[name].title,
            *_costs(side),
            _ratio(side, ours),
            _difference(found, name, "profile"),
        ]
        for name, side in sides.items()
    ]
    return table(["side", *COSTS, "work / ours", "numbers differ by at most"], rows)


def work_line(found: Found) -> str:
    """Each side beside a bare forward pass, and what whole processes take."""
    sides = _sides(found, "states")
    bare = sides.pop("bare", None)
    ratios = [f"{SIDES[name].title} {_ratio(side, bare)}" for name, side in sides.items()]
    seconds = [f"{median(side['whole_s']):.1f}" for side in sides.values() if side["whole_s"]]
    memory = [f"{median(side['peak_mib']):,.0f}" for side in sides.values()]
    whole = [f"{', '.join(seconds)} s"] if seconds else []
    whole.append(f"{', '.join(memory)} MiB")
    return (
        "Writing hidden states and entropies of every token to disk takes this many times a bare "
        f"forward pass, imports and loading apart: {', '.join(ratios)}. "
        f"Whole processes take, in the same order, {' and '.join(whole)}."
    )


TABLES: Final[Mapping[str, Callable[[Found], str]]] = {
    "peers-setting": setting_line,
    "peers-states": states_table,
    "peers-profile": profile_table,
    "peers-work": work_line,
}


def _sides(found: Found, task: Task) -> dict[str, Found]:
    """The measured sides of a task, in the order of `SIDES`; without times where it was busy."""
    hidden = dict.fromkeys(TIMES, ()) if busy(found) else {}
    return {
        name: {**found["sides"][name], **hidden}
        for name, side in SIDES.items()
        if side.task == task and name in found["sides"]
    }


def _costs(side: Found) -> list[str]:
    """The cells under `COSTS`."""
    times = [_spread(side[name], ".1f", " s") for name in TIMES]
    return [*times, f"{median(side['peak_mib']):,.0f} MiB"]


def _ratio(side: Found, other: Found | None) -> str:
    """Of the work of the same round each."""
    if other is None:
        return "–"
    pairs = zip(side["work_s"], other["work_s"], strict=True)
    return _spread([a / b for a, b in pairs], ".2f")


def _spread(values: Sequence[float], digits: str, unit: str = "") -> str:
    """The median, with the range where there are several.

    >>> _spread([2, 1, 4], ".1f", " s"), _spread([2], ".1f", " s"), _spread([], ".1f")
    ('2.0 s (1.0 to 4.0)', '2.0 s', '–')
    """
    if not values:
        return "–"
    middle = f"{median(values):{digits}}{unit}"
    return (
        middle
        if len(values) == 1
        else f"{middle} ({min(values):{digits}} to {max(values):{digits}})"
    )


def _difference(found: Found, name: str, kind: str) -> str:
    if name in REFERENCE.values():
        return "(reference)"
    value = found["agreement"].get(name, {}).get(kind)
    return "–" if value is None else f"{value:.2g}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
