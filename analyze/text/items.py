"""Items of an evaluation as text: what tells right from wrong, at 80 columns; Markdown; JSON."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import polars as pl

from lpp.analyze.evaluations.analysis import ItemAnalysis
from lpp.analyze.evaluations.mistakes import Mistake
from lpp.analyze.evaluations.tables import MEANING
from lpp.analyze.evaluations.verdict import named, verdict
from lpp.analyze.text import markdown
from lpp.analyze.text.auroc_rows import BAR, HEADS, auroc_cells, auroc_line, digits, paragraph
from lpp.analyze.text.text import Row, bar
from lpp.analyze.text.text import as_json as json_text

ROLES: Final[Mapping[str, str]] = {
    "baseline": "Baselines: what a feature has to beat",
    "statistic": "Predictions",
    "rows": "Rows of all sites",
    "gold": "Of the gold answer: known only with the right answer at hand; not in q",
}
"""What stands above the features of each role, but for those of one site."""

READING: Final = (
    "AUROC: probability that a right item has the larger value than a wrong one; .50 says nothing, "
    "below .50 wrong items have the larger one. 95 %: its interval. shuffled: 95 % of 200 "
    "draws with shuffled labels. within: pairs of one group alone. partial: of what the "
    "answer's length and ln p leave of the feature's ranks. q: Benjamini-Hochberg. Where items are "
    "compared within groups, so are partial and q."
)


def as_text(found: ItemAnalysis) -> str:
    """Features, sites by depth, calibration, and risk against coverage."""
    parts = [*what_was_asked(found), READING, ""]
    lines = "".join(map(paragraph, parts)) + auroc_line("", HEADS)
    for role, head in ROLES.items():
        some = _of_role(found, role)
        lines += f"{head}\n" if some else ""
        for row in some:
            lines += auroc_line(f"  {row['feature']}", auroc_cells(row))
    drawn_of = "within" if found.n_within else "AUROC"
    for feature, some in _by_site(found):
        lines += f"{feature} by depth; bar: distance of {drawn_of} from .50\n"
        for row in some:
            value = row[f"{_kind(found)}auroc"]
            drawn = "" if value is None else bar(abs(value - 0.5), 0.5, BAR)
            lines += auroc_line(f"  {row['site']}", auroc_cells(row), drawn)
    lines += "".join(map(paragraph, ("", *_closing(found))))
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
            lines.append(markdown.row((f"{row['feature']}{mark}", *auroc_cells(row))))
    for _, some in _by_site(found):
        for row in some:
            name = markdown.escaped(f"{row['feature']}, {row['site']}")
            lines.append(markdown.row((name, *auroc_cells(row))))
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
        shares = (digits(one.confidence), digits(one.gold_share))
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
    *("task", "run", "name", "source", "model", "filter", "n_right", "n_wrong", "n_groups"),
    *("n_within", "cluster", "n_clusters", "accuracy_interval", "skip_first", "seed", "keeps_rows"),
)


def what_was_asked(found: ItemAnalysis) -> Iterator[str]:
    """Lines on the items, the model, the groups, and what is left out."""
    n = found.n_right + found.n_wrong
    groups = f"; {found.n_groups} groups" if found.n_groups else ""
    yield f"{found.task}: {n} items, {found.n_right} right, {found.n_wrong} wrong{groups}"
    yield f"{found.name}, run {found.run}"
    if found.n_groups:
        kept = found.n_within or "too few to compare any"
        yield f"Within groups: {kept} items are in groups of at least two right and two wrong ones"
    yield in_clusters(found.cluster, found.n_clusters)
    for why, count in found.left_out.items():
        yield f"{count} items left out: {why}"
    if found.uncut:
        yield MEANING["uncut_answers"]


def in_clusters(cluster: str | None, n_clusters: int) -> str:
    """A line on what is independent: clusters, or items."""
    if cluster is None:
        return "Items are taken as independent: their task declares no cluster (--cluster FIELD)"
    return f"{n_clusters} clusters by {cluster}: errors, p, shuffles and folds are by cluster"


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
            f"Calibration of chosen_share: mean {digits(calibrated.confidence)}, right "
            f"{digits(calibrated.accuracy)}; expected error {digits(calibrated.ece)} (95 %: "
            f"{digits(low)} to {digits(high)}), of a calibrated model {digits(mean)}, seldom above "
            f"{digits(most)}."
        )
    risk = found.risk
    yield (
        f"Area under risk against coverage: {digits(risk.area)}; best {digits(risk.best)}, by "
        f"chance {digits(risk.random)}."
    )


def _curves(found: ItemAnalysis) -> Iterator[tuple[str, Mapping[str, Sequence[str]]]]:
    """Reliability, and risk against coverage: a head, and rows by name."""
    if found.calibration is not None:
        bins = found.calibration.reliability
        yield (
            "Reliability, bins of equal size",
            {
                "confidence": [digits(one.confidence) for one in bins],
                "right": [digits(one.accuracy) for one in bins],
                "items": [str(one.n) for one in bins],
            },
        )
    yield (
        f"Wrong among the most confident, by {found.confidence}",
        {
            "coverage": [f"{round(100 * coverage)}%" for coverage, _ in found.risk.rows],
            "wrong": [digits(share) for _, share in found.risk.rows],
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
        f"{digits(said.number(said.baseline)[0])}. Farther from .50 by a paired test, q below .1: "
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
