"""Items of an evaluation as text: what tells right from wrong, at 80 columns; Markdown; JSON."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from lpp.analyze.evaluations.analysis import ItemAnalysis
from lpp.analyze.text import markdown
from lpp.analyze.text.auroc_rows import BAR, HEADS
from lpp.analyze.text.auroc_rows import auroc_cells as _cells
from lpp.analyze.text.auroc_rows import auroc_line as _cells_line
from lpp.analyze.text.auroc_rows import digits as _share
from lpp.analyze.text.auroc_rows import paragraph as _line
from lpp.analyze.text.text import Row, bar
from lpp.analyze.text.text import as_json as json_text

ROLES: Final[Mapping[str, str]] = {
    "baseline": "Baselines: what a feature has to beat",
    "statistic": "Predictions",
    "gold": "Of the gold answer: known only with the right answer at hand; not in q",
}
"""What stands above the features of each role, but for those of sites."""

READING: Final = (
    "AUROC: probability that a right item has the larger value than a wrong one; .50 says nothing, "
    "below .50 wrong items have the larger one. 95 %: its interval over items. shuffled: 95 % of "
    "200 draws with shuffled labels. within: pairs of one group alone. partial: of what the "
    "answer's length and ln p leave of the feature's ranks. q: Benjamini-Hochberg. Where items are "
    "compared within groups, so are partial and q."
)


def as_text(found: ItemAnalysis) -> str:
    """Features, sites by depth, calibration, and risk against coverage."""
    parts = [*_opening(found), READING, ""]
    lines = "".join(map(_line, parts)) + _cells_line("", HEADS)
    for role, head in ROLES.items():
        lines += f"{head}\n"
        for row in _of_role(found, role):
            lines += _cells_line(f"  {row['feature']}", _cells(row))
    drawn_of = "within" if found.n_within else "AUROC"
    for feature, some in _by_site(found):
        lines += f"{feature} by depth; bar: distance of {drawn_of} from .50\n"
        for row in some:
            value = row[f"{_kind(found)}auroc"]
            drawn = "" if value is None else bar(abs(value - 0.5), 0.5, BAR)
            lines += _cells_line(f"  {row['site']}", _cells(row), drawn)
    lines += "".join(map(_line, ("", *_closing(found))))
    for head, named in _curves(found):
        lines += f"{head}\n"
        for name, cells in named.items():
            lines += f"  {name:<11}{''.join(f'{cell:>6}' for cell in cells)}\n"
    return lines


def as_markdown(found: ItemAnalysis) -> str:
    """The same for a document."""
    lines = [f"## Items of {markdown.escaped(found.task)}", ""]
    lines += [markdown.escaped(line) for line in _opening(found)]
    lines += ["", markdown.escaped(READING), ""]
    lines += [markdown.row(("feature", *HEADS)), markdown.row(("---", *["---:"] * len(HEADS)))]
    for role in ROLES:
        for row in _of_role(found, role):
            mark = "" if role == "statistic" else f" ({role})"
            lines.append(markdown.row((f"{row['feature']}{mark}", *_cells(row))))
    for _, some in _by_site(found):
        for row in some:
            name = markdown.escaped(f"{row['feature']}, {row['site']}")
            lines.append(markdown.row((name, *_cells(row))))
    lines += ["", *(markdown.escaped(line) for line in _closing(found))]
    for head, named in _curves(found):
        lines += ["", f"{head}:", ""]
        for place, (name, cells) in enumerate(named.items()):
            lines.append(markdown.row((name, *cells)))
            if not place:
                lines.append(markdown.row(("---", *["---:"] * len(cells))))
    return "\n".join(lines) + "\n"


def as_json(found: ItemAnalysis) -> str:
    """Everything: settings, counts, a list of features, calibration, risk."""
    fields = {name: getattr(found, name) for name in _SETTINGS}
    document: dict[str, Any] = {
        **fields,
        "left_out": dict(found.left_out),
        "features": found.features.to_dicts(),
        "calibration": None if found.calibration is None else asdict(found.calibration),
        "risk_coverage": {"confidence": found.confidence, **asdict(found.risk)},
    }
    return json_text(document)


FORMATS: Final[Mapping[str, Callable[[ItemAnalysis], str]]] = {
    "text": as_text,
    "json": as_json,
    "md": as_markdown,
}

_SETTINGS: Final = (
    *("task", "run", "source", "model", "n_right", "n_wrong", "n_groups", "n_within"),
    *("skip_first", "seed", "keeps_rows"),
)


def _opening(found: ItemAnalysis) -> Iterator[str]:
    n = found.n_right + found.n_wrong
    groups = f"; {found.n_groups} groups" if found.n_groups else ""
    yield f"{found.task}: {n} items, {found.n_right} right, {found.n_wrong} wrong{groups}"
    yield f"{found.model}, run {found.run}"
    if found.n_groups:
        kept = found.n_within or "too few to compare any"
        yield f"Within groups: {kept} items are in groups with two right and two wrong ones"
    for why, count in found.left_out.items():
        yield f"{count} items left out: {why}"


def _closing(found: ItemAnalysis) -> Iterator[str]:
    """What is in no table."""
    yield from _beyond(found)
    missing = found.features.filter(found.features["auroc"].is_null())
    for why in missing["why_none"].unique(maintain_order=True):
        some = missing.filter(why_none=why).iter_rows(named=True)
        yield f"No AUROC of {', '.join(map(_named, some))}: {why}."
    if not found.keeps_rows:
        yield (
            "No features of sites: the run keeps moments of its rows and not the rows. Evaluate "
            "again with --keep rows."
        )
    calibrated = found.calibration
    if calibrated is None:
        yield "No calibration: items have one answer, whose probability is no confidence."
    else:
        low, high = calibrated.interval
        mean, most = calibrated.calibrated
        yield (
            f"Calibration of chosen_share: mean {_share(calibrated.confidence)}, right "
            f"{_share(calibrated.accuracy)}; expected error {_share(calibrated.ece)} (95 %: "
            f"{_share(low)} to {_share(high)}), of a calibrated model {_share(mean)}, seldom above "
            f"{_share(most)}."
        )
    risk = found.risk
    yield (
        f"Area under risk against coverage: {_share(risk.area)}; best {_share(risk.best)}, by "
        f"chance {_share(risk.random)}."
    )


def _curves(found: ItemAnalysis) -> Iterator[tuple[str, Mapping[str, Sequence[str]]]]:
    """Reliability, and risk against coverage: a head, and rows by name."""
    if found.calibration is not None:
        bins = found.calibration.reliability
        yield (
            "Reliability, bins of equal size",
            {
                "confidence": [_share(one.confidence) for one in bins],
                "right": [_share(one.accuracy) for one in bins],
                "items": [str(one.n) for one in bins],
            },
        )
    yield (
        f"Wrong among the most confident, by {found.confidence}",
        {
            "coverage": [f"{round(100 * coverage)}%" for coverage, _ in found.risk.rows],
            "wrong": [_share(share) for _, share in found.risk.rows],
        },
    )


def _beyond(found: ItemAnalysis) -> Iterator[str]:
    """The best baseline, and what lies beyond it: within groups, where there are any."""
    kind = _kind(found)
    auroc, low, high = (f"{kind}{name}" for name in ("auroc", "ci_low", "ci_high"))
    made = [row for row in found.features.iter_rows(named=True) if row[auroc] is not None]
    baselines = [row for row in made if row["role"] == "baseline"]
    if not baselines:
        yield "No baseline varies over the items."
        return
    best = max(baselines, key=lambda row: abs(row[auroc] - 0.5))
    reached = abs(best[auroc] - 0.5)
    beyond = [
        _named(row)
        for row in made
        if row["role"] in ("statistic", "rows")
        and row[low] is not None
        and max(row[low] - 0.5, 0.5 - row[high]) > reached
    ]
    where = " within groups" if kind else ""
    yield (
        f"Best baseline{where}: {best['feature']}, {_share(best[auroc])}. Whole interval farther "
        f"from .50: {', '.join(beyond) or 'none'}."
    )


def _kind(found: ItemAnalysis) -> str:
    """What the columns of the number begin with that conclusions are drawn from."""
    return "within_" if found.n_within else ""


def _named(row: Row) -> str:
    return str(row["feature"] if row["site"] is None else f"{row['feature']} of {row['site']}")


def _of_role(found: ItemAnalysis, role: str) -> Sequence[Row]:
    return found.features.filter(role=role).to_dicts()


def _by_site(found: ItemAnalysis) -> Iterator[tuple[str, Sequence[Row]]]:
    """Features of sites, each with its rows from the first site on."""
    of_rows = found.features.filter(role="rows")
    for name in of_rows["feature"].unique(maintain_order=True):
        yield name, of_rows.filter(feature=name).to_dicts()
