"""Two runs of one task as text: the items that flipped, and what tells them; Markdown; JSON."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import polars as pl

from lpp.analyze.evaluations.flip_analysis import FlipAnalysis
from lpp.analyze.evaluations.flips import GAINED, LOST, MOVED, Flips, changed_items
from lpp.analyze.pages.terminal import tail
from lpp.analyze.runs.named import names_of_two
from lpp.analyze.text import markdown
from lpp.analyze.text.auroc_rows import (
    BAR,
    HEADS,
    auroc_cells,
    auroc_line,
    digits,
    paragraph,
    probability,
)
from lpp.analyze.text.items import in_clusters
from lpp.analyze.text.text import WIDTH, Row, bar
from lpp.analyze.text.text import as_json as json_text

LISTED: Final = 20
"""Items of each change that a table lists, of those that changed the largest `gap_a` first."""

IN_SHORT: Final = 5
"""The same beside a comparison of tokens."""

TITLES: Final[Mapping[str, str]] = {
    LOST: "Right in A, wrong in B",
    GAINED: "Wrong in A, right in B",
    MOVED: "Wrong in both, with another answer",
}

COLUMNS: Final = ("item", "lead", "share A", "share B", "answers")
_WIDTHS: Final = (6, 6, 7, 7, 10)

LEGEND: Final = (
    "lead: ln p of the most likely answer less that of the second, in A, nats; share: probability "
    "of the chosen answer among the answers; answers: chosen in A > chosen in B (right one), from "
    "0; then the end of the question."
)

ROLES: Final[Mapping[str, str]] = {
    "baseline": "Baselines",
    "statistic": "Predictions of A",
    "drift": "From A to B, before the answer",
}
"""What stands above the features of each role, but for those of sites."""


def as_text(found: FlipAnalysis) -> str:
    """Counts, the items whose answer changed, and what tells those that become wrong."""
    text = as_short_text(found.flips, listed=LISTED)
    if found.why_no_ranking is not None:
        return text + "\n" + paragraph(found.why_no_ranking)
    text += f"\n{_title(found)}\n" + paragraph(_reading(found)) + "\n" + auroc_line("", HEADS)
    for role, head in ROLES.items():
        text += f"{head}\n"
        for row in _without_site(found, role):
            text += auroc_line(f"  {row['feature']}", auroc_cells(row))
    for feature, some in _by_site(found):
        text += f"{feature} by depth; bar: distance of AUROC from .50\n"
        for row in some:
            drawn = "" if row["auroc"] is None else bar(abs(row["auroc"] - 0.5), 0.5, BAR)
            text += auroc_line(f"  {row['site']}", auroc_cells(row), drawn)
    return text + "".join(map(paragraph, _closing(found)))


def as_markdown(found: FlipAnalysis) -> str:
    """The same for a document."""
    text = as_short_markdown(found.flips, listed=LISTED)
    if found.why_no_ranking is not None:
        return f"{text}\n{markdown.escaped(found.why_no_ranking)}\n"
    lines = ["", f"#### {markdown.escaped(_title(found))}", ""]
    lines += [markdown.escaped(_reading(found)), ""]
    lines += [markdown.row(("feature", *HEADS)), markdown.row(("---", *["---:"] * len(HEADS)))]
    for row in found.features.iter_rows(named=True):
        name = row["feature"] if row["site"] is None else f"{row['feature']}, {row['site']}"
        lines.append(markdown.row((markdown.escaped(name), *auroc_cells(row))))
    lines += ["", *map(markdown.escaped, _closing(found))]
    return text + "\n".join(lines) + "\n"


def as_json(found: FlipAnalysis) -> str:
    """Everything: settings, counts, every item whose answer changed, a list of features."""
    settings = ("why_no_ranking", "n_groups", "n_within", "skip_first", "seed")
    document = {
        **flips_document(found.flips),
        **{name: getattr(found, name) for name in settings},
        "notes": list(found.notes),
        "covariates": list(found.covariates),
        "features": found.features.to_dicts(),
    }
    return json_text(document)


FORMATS: Final[Mapping[str, Callable[[FlipAnalysis], str]]] = {
    "text": as_text,
    "json": as_json,
    "md": as_markdown,
}


# without the ranking


def as_short_text(found: Flips, *, listed: int = IN_SHORT) -> str:
    """Counts, and the items whose answer changed, `listed` of each change."""
    text = "".join(map(paragraph, _opening(found)))
    changed = changed_items(found)
    if len(changed):
        head = "".join(f"{name:>{w}} " for name, w in zip(COLUMNS, _WIDTHS, strict=True)).rstrip()
        text += f"\n{head}\n"
    for change, title in TITLES.items():
        some = changed.filter(change=change)
        if len(some):
            text += f"{title}: {len(some)}\n"
        for row in some.head(listed).iter_rows(named=True):
            shown = zip(_item_cells(row), _WIDTHS, strict=True)
            line = "".join(f"{cell:>{width}} " for cell, width in shown)
            text += f"{line} {tail(row['text'] or '', WIDTH - len(line) - 1)}".rstrip() + "\n"
        if len(some) > listed:
            text += f"       {len(some) - listed} more: --format json\n"
    return text + (paragraph(LEGEND) if len(changed) else "")


def as_short_markdown(found: Flips, *, listed: int = IN_SHORT) -> str:
    """The same for a document."""
    lines = [f"### Items of {markdown.escaped(found.a.task)}", ""]
    lines += [f"- {markdown.escaped(line)}" for line in _opening(found)]
    changed = changed_items(found)
    for change, title in TITLES.items():
        some = changed.filter(change=change)
        if not len(some):
            continue
        lines += ["", f"{title}: {len(some)}", "", markdown.row((*COLUMNS, "question"))]
        lines.append(markdown.row((*["---:"] * len(COLUMNS), "---")))
        for row in some.head(listed).iter_rows(named=True):
            question = tail(row["text"] or "", WIDTH)
            shown = map(markdown.escaped, _item_cells(row))
            lines.append(markdown.row((*shown, markdown.code(question) if question else "")))
        if len(some) > listed:
            lines += ["", f"{len(some) - listed} more are in the JSON."]
    if len(changed):
        lines += ["", markdown.escaped(LEGEND)]
    return "\n".join(lines) + "\n"


def section_text(one: Flips | str) -> str:
    """What stands below a comparison of tokens: the items of a task of both runs, or why not."""
    return paragraph(f"Items: {one}") if isinstance(one, str) else as_short_text(one)


def item_documents(items: Sequence[Flips | str]) -> list[dict[str, Any]]:
    """For the JSON of a comparison of tokens: a document for each task that both runs were asked,
    or why there is none.
    """
    return [{"why_none": one} if isinstance(one, str) else flips_document(one) for one in items]


def flips_document(found: Flips) -> dict[str, Any]:
    """Counts and every item whose answer changed."""
    both, lost, gained, neither = found.counts
    accuracy = found.accuracy
    low, high = accuracy.interval
    changed = changed_items(found)
    runs = {
        name: {
            "run": some.view.run.id,
            "name": run_name,
            "model": some.model,
            "source": some.source,
            "left_out": dict(some.left_out),
            "items_alone": alone,
        }
        for name, run_name, some, alone in zip(
            "ab",
            names_of_two(found.a.view, found.b.view),
            (found.a, found.b),
            found.n_alone,
            strict=True,
        )
    }
    return {
        "task": found.a.task,
        "filter": found.a.filter,
        **runs,
        "items": accuracy.n,
        "cluster": found.a.cluster,
        "n_clusters": found.n_clusters,
        "right_in_both": both,
        "right_to_wrong": lost,
        "wrong_to_right": gained,
        "wrong_in_both": neither,
        "other_wrong_answer": len(changed.filter(change=MOVED)),
        "accuracy_a": accuracy.first,
        "accuracy_b": accuracy.second,
        "difference": {"value": accuracy.difference, "ci_low": low, "ci_high": high},
        "mcnemar_p": accuracy.p_value,
        "changed": [_finite(row) for row in changed.iter_rows(named=True)],
    }


def _opening(found: Flips) -> Iterator[str]:
    both, lost, gained, neither = found.counts
    accuracy = found.accuracy
    moved = int((found.table["change"] == MOVED).sum())
    low, high = accuracy.interval
    yield f"{found.a.task}: of {accuracy.n} items {lost + gained} flipped"
    name_a, name_b = names_of_two(found.a.view, found.b.view)
    a, b = found.a.view.run.id, found.b.view.run.id
    yield f"A  {name_a}, run {a}: {both + lost} right, {digits(accuracy.first)}"
    yield f"B  {name_b}, run {b}: {both + gained} right, {digits(accuracy.second)}"
    yield f"Right in both {both}, in A alone {lost}, in B alone {gained}, in neither {neither}" + (
        f"; of these {moved} with another wrong answer" if moved else ""
    )
    test = (
        "McNemar's exact p" if found.a.cluster is None else "p by cluster (Durkalski et al. 2003)"
    )
    yield (
        f"Accuracy, B less A: {_signed(accuracy.difference)} (95 %: {_signed(low)} to "
        f"{_signed(high)}, paired); {test} {probability(accuracy.p_value)}"
    )
    yield in_clusters(found.a.cluster, found.n_clusters)
    if found.a.source != found.b.source:
        yield f"Sources: {found.a.source} (A), {found.b.source} (B)"
    for name, some, alone in zip("AB", (found.a, found.b), found.n_alone, strict=True):
        for why, count in some.left_out.items():
            yield f"{count} items of {name} left out: {why}"
        if alone:
            yield f"{alone} items are in {name} alone"


def _title(found: FlipAnalysis) -> str:
    both, lost, *_ = found.flips.counts
    return f"What tells the {lost} of {both + lost} right items of A that are wrong in B"


def _reading(found: FlipAnalysis) -> str:
    within = (
        f" within: pairs of one group alone, {found.n_within} items; partial and q are of them."
        if found.n_within
        else ""
    )
    return (
        "AUROC: probability that an item that becomes wrong has the larger value than one that "
        "stays right; .50 says nothing, below .50 those that stay right have the larger one. 95 %: "
        "its interval over items. shuffled: 95 % of 200 draws with shuffled labels. partial: of "
        f"what {' and '.join(found.covariates)} in A leave of the feature's ranks. q: "
        f"Benjamini-Hochberg.{within}"
    )


def _closing(found: FlipAnalysis) -> Iterator[str]:
    yield from found.notes
    missing = found.features.filter(found.features["auroc"].is_null())
    for why in missing["why_none"].unique(maintain_order=True):
        some = missing.filter(pl.col("why_none").eq_missing(why)).iter_rows(named=True)
        yield f"No AUROC of {', '.join(map(_named, some))}: {why}."


def _named(row: Row) -> str:
    return str(row["feature"] if row["site"] is None else f"{row['feature']} of {row['site']}")


def _without_site(found: FlipAnalysis, role: str) -> Sequence[Row]:
    return found.features.filter(pl.col("role") == role, pl.col("site").is_null()).to_dicts()


def _by_site(found: FlipAnalysis) -> Iterator[tuple[str, Sequence[Row]]]:
    """Features of sites, each with its rows from the first site on."""
    of_sites = found.features.filter(pl.col("site").is_not_null())
    for name in of_sites["feature"].unique(maintain_order=True):
        yield name, of_sites.filter(feature=name).to_dicts()


def _item_cells(row: Row) -> tuple[str, ...]:
    """What stands under `COLUMNS`."""
    gold = "" if row["gold"] is None else f" ({row['gold']})"
    gap = "-" if row["gap_a"] is None else f"{row['gap_a']:.2f}"
    answers = f"{row['chosen_a']} > {row['chosen_b']}{gold}"
    return (str(row["item"]), gap, digits(row["share_a"]), digits(row["share_b"]), answers)


def _signed(value: float) -> str:
    """Two digits behind the point, with a sign.

    >>> [_signed(value) for value in (-0.104, 0.25, 0.0)]
    ['-.10', '+.25', '+.00']
    """
    return f"{value:+.2f}".replace("0.", ".", 1)


def _finite(row: Row) -> dict[str, Any]:
    """An item for JSON: ln p that are not finite are null."""
    return {
        name: [one if one is not None and abs(one) < float("inf") else None for one in value]
        if name.startswith("logprobs")
        else value
        for name, value in row.items()
    }
