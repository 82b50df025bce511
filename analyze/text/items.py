"""Items of an evaluation as text: what tells right from wrong, at 80 columns; Markdown; JSON."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import polars as pl

from lpp.analyze.evaluations.analysis import ItemAnalysis
from lpp.analyze.evaluations.mistakes import Mistake
from lpp.analyze.evaluations.verdict import named, verdict
from lpp.analyze.text import markdown
from lpp.analyze.text.text import Row, bar, wrapped
from lpp.analyze.text.text import as_json as json_text
from lpp.store.commands.escaping import escape

BAR: Final = 6
"""Columns of a bar for an AUROC of 0 or 1."""

HEADS: Final = ("AUROC", "95 %", "shuffled", "within", "partial", "q")
_WIDTHS: Final = (5, 9, 9, 6, 7, 6)
_NAME: Final = 22

ROLES: Final[Mapping[str, str]] = {
    "baseline": "Baselines: what a feature has to beat",
    "statistic": "Predictions",
    "rows": "Rows of all sites",
    "gold": "Of the gold answer: known only with the right answer at hand; not in q",
}
"""What stands above the features of each role, but for those of one site."""

READING: Final = (
    "AUROC: probability that a right item has the larger value than a wrong one; .50 says nothing, "
    "below .50 wrong items have the larger one. 95 %: its interval over items. shuffled: 95 % of "
    "200 draws with shuffled labels. within: pairs of one group alone. partial: of what the "
    "answer's length and ln p leave of the feature's ranks. q: Benjamini-Hochberg. Where items are "
    "compared within groups, so are partial and q."
)


def as_text(found: ItemAnalysis) -> str:
    """Features, sites by depth, calibration, and risk against coverage."""
    parts = [*what_was_asked(found), READING, ""]
    lines = "".join(map(_line, parts)) + _cells_line("", HEADS)
    for role, head in ROLES.items():
        some = _of_role(found, role)
        lines += f"{head}\n" if some else ""
        for row in some:
            lines += _cells_line(f"  {row['feature']}", _cells(row))
    drawn_of = "within" if found.n_within else "AUROC"
    for feature, some in _by_site(found):
        lines += f"{feature} by depth; bar: distance of {drawn_of} from .50\n"
        for row in some:
            value = row[f"{_kind(found)}auroc"]
            drawn = "" if value is None else bar(abs(value - 0.5), 0.5, BAR)
            lines += _cells_line(f"  {row['site']}", _cells(row), drawn)
    lines += "".join(map(_line, ("", *_closing(found))))
    for head, curves in _curves(found):
        lines += f"{head}\n"
        for name, cells in curves.items():
            lines += f"  {name:<11}{''.join(f'{cell:>6}' for cell in cells)}\n"
    return lines


def as_markdown(
    found: ItemAnalysis, sentences: Sequence[str] = (), mistakes: Sequence[Mistake] = ()
) -> str:
    """The same for a document, with sentences in Markdown before it and mistakes behind it."""
    lines = [f"## Items of {markdown.escaped(found.task)}", ""]
    lines += [*(f"- {sentence}" for sentence in sentences), ""] if sentences else []
    lines += [markdown.escaped(line) for line in what_was_asked(found)]
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
    for head, curves in _curves(found):
        lines += ["", f"{head}:", ""]
        for place, (name, cells) in enumerate(curves.items()):
            lines.append(markdown.row((name, *cells)))
            if not place:
                lines.append(markdown.row(("---", *["---:"] * len(cells))))
    return "\n".join([*lines, *_mistakes(mistakes)]) + "\n"


def _mistakes(mistakes: Sequence[Mistake]) -> Iterator[str]:
    """A table of the most confident mistakes; nothing where there are none."""
    if not mistakes:
        return
    yield from ("", "Most confident mistakes:", "")
    yield markdown.row(("item", "question", "chosen", "share", "right", "share"))
    yield markdown.row(("---:", "---", "---", "---:", "---", "---:"))
    for one in mistakes:
        texts = (one.question, one.chosen, one.gold or "-")
        question, chosen, gold = (markdown.escaped(text).strip() for text in texts)
        shares = (_share(one.confidence), _share(one.gold_share))
        yield markdown.row((str(one.item), question, chosen, shares[0], gold, shares[1]))


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
    *("task", "run", "source", "model", "filter", "n_right", "n_wrong", "n_groups", "n_within"),
    *("skip_first", "seed", "keeps_rows"),
)


def what_was_asked(found: ItemAnalysis) -> Iterator[str]:
    """Lines on the items, the model, the groups, and what is left out."""
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
        yield f"No AUROC of {', '.join(map(named, some))}: {why}."
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
    said = verdict(found.features, within=found.n_within > 0)
    if said.baseline is None:
        yield "No baseline varies over the items."
        return
    where = " within groups" if said.within else ""
    yield (
        f"Best baseline{where}: {said.baseline['feature']}, "
        f"{_share(said.number(said.baseline)[0])}. q below .1 and whole interval farther from .50: "
        f"{', '.join(map(named, said.beyond)) or 'none'}."
    )


def _kind(found: ItemAnalysis) -> str:
    """What the columns of the number begin with that conclusions are drawn from."""
    return "within_" if found.n_within else ""


def _of_role(found: ItemAnalysis, role: str) -> Sequence[Row]:
    return found.features.filter(pl.col("site").is_null(), role=role).to_dicts()


def _by_site(found: ItemAnalysis) -> Iterator[tuple[str, Sequence[Row]]]:
    """Features of sites, each with its rows from the first site on."""
    of_rows = found.features.filter(pl.col("site").is_not_null())
    for name in of_rows["feature"].unique(maintain_order=True):
        yield name, of_rows.filter(feature=name).to_dicts()


def _cells(row: Row) -> tuple[str, ...]:
    """What stands under `HEADS`."""
    return (
        _share(row["auroc"]),
        _range(row["ci_low"], row["ci_high"]),
        _range(row["shuffled_low"], row["shuffled_high"]),
        _share(row["within_auroc"]),
        _share(row["partial_auroc"]),
        _q(row["q_value"]),
    )


def _line(text: str) -> str:
    return wrapped(escape(text, keep="")) if text else "\n"


def _cells_line(name: str, cells: Sequence[str], drawn: str = "") -> str:
    shown = (f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))
    return f"{escape(name, keep=''):<{_NAME}} {'  '.join(shown)}  {drawn}".rstrip() + "\n"


def _share(value: float | None) -> str:
    """Two digits behind the point, without a zero before it.

    >>> [_share(value) for value in (0.514, 0.0, 1.0, None)]
    ['.51', '.00', '1.00', '-']
    """
    return "-" if value is None else f"{value:.2f}".removeprefix("0")


def _range(low: float | None, high: float | None) -> str:
    return "-" if low is None else f"{_share(low)} {_share(high)}"


def _q(value: float | None) -> str:
    """Two digits that say something."""
    if value is None:
        return "-"
    if value < 1e-4:
        return "<.0001"
    return _share(value) if value >= 0.1 else f"{value:.1g}".removeprefix("0")
