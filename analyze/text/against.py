"""Every run against one, as text for a terminal, as Markdown, and as JSON."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from lpp.analyze.drift.against import Comparison, in_order, order_of
from lpp.analyze.drift.gate import Verdict
from lpp.analyze.drift.summaries import Summary
from lpp.analyze.text import text
from lpp.analyze.text.drift import (
    as_gate,
    family_line,
    flag_lines,
    gate_rows,
    reason_lines,
    with_gate,
)
from lpp.analyze.text.markdown import code, escaped, row
from lpp.analyze.text.names import NAMELESS, Names, legend
from lpp.analyze.text.text import (
    broken,
    error,
    explained,
    marks,
    number,
    numbered,
    plain_table,
    rendered,
    wrapped,
)
from lpp.store.format.run_names import name_and_id

NONE: Final[Mapping[str, str]] = MappingProxyType({})
"""No run that should have been compared and could not be: why, by run id."""

STRIP: Final = 34
"""Columns of the depth picture: one for each site of a model of 32 blocks."""

DISTANCE: Final = "relative_distance"

_HEIGHTS: Final = "▁▂▃▄▅▆▇█"
_HEADS: Final = ("prompts", "KL", "flips %", "ln PPL", "distance", "CKA")
_ORDERS: Final = {
    "kl": ", the smallest KL first",
    "flips": ", the fewest flips first, as not every run has a KL",
}
_MEANINGS: Final = (
    "KL: KL(A || B), nats for each token. flips: tokens whose most likely next token differs. ln "
    "PPL: ln PPL(B) - ln PPL(A). distance: |b - a| / |a|, and CKA, at {site}. ±: standard error "
    "over prompts. A is {base}, B is the run of the row."
)
_STRIP: Final = (
    "One column for each site{grouped}, from {first} to {last}. Height: relative distance; a full "
    "column is {most}, the largest of all. Blank: exactly 0; -: no number."
)


def as_json(
    base: str,
    comparisons: Sequence[Comparison],
    left_out: Mapping[str, str],
    names: Names = NAMELESS,
    undecided: Mapping[str, str] = NONE,
) -> str:
    """The document of each comparison as `diff` of the two runs gives it, for programs.

    names: of the base and the runs. undecided: those of `left_out` without which no gate passes.
    """
    return text.as_json(
        {
            "against": base,
            "names": dict(names),
            "comparisons": [with_gate(one.document, one.verdicts) for one in in_order(comparisons)],
            "left_out": [
                {"run": run, "why": why, "undecided": run in undecided}
                for run, why in left_out.items()
            ],
        }
    )


def as_text(
    base: str,
    comparisons: Sequence[Comparison],
    names: Names = NAMELESS,
    undecided: Mapping[str, str] = NONE,
) -> str:
    """A row for each run, then a picture of distance in depth, at 80 columns.

    names: of the base and the runs; the last lines say which run each name stands for.
    """
    out = io.StringIO()
    ordered = in_order(comparisons)
    a = names.get(base)
    out.write((f"A  {base}" if a is None else name_and_id(f"A  {a}", base)) + "\n")
    for line in _said(ordered, names):
        out.write(wrapped(line))
    made = plain_table()
    made.collapse_padding = True
    made.add_column("run", no_wrap=True)
    for head in _HEADS:
        made.add_column(head, justify="right", no_wrap=True)
    numbers = numbered([flag for one in ordered for flag in _flags(one)])
    width = 20
    if numbers:
        made.add_column("", no_wrap=True)
        width = 16  # the widest numbers leave no more
    for one in ordered:
        cells = (f"{value}\n{error(stderr, '±')}".rstrip() for value, stderr in _cells(one))
        made.add_row(broken(names.get(one.b, one.b), width), *cells, marks(_flags(one), numbers))
    out.write(rendered(made) + wrapped(_meanings(names.get(base, base), ordered)))
    out.writelines(f"{line}\n" for line in explained(numbers))
    out.write(_depth(ordered, names))
    out.write("\n" + legend(names, (one.b for one in ordered)) if names else "")
    if any(one.verdicts for one in ordered):
        out.write("\nGate\n" + as_gates(ordered, names, undecided))
    return out.getvalue()


def as_markdown(
    base: str,
    comparisons: Sequence[Comparison],
    names: Names = NAMELESS,
    undecided: Mapping[str, str] = NONE,
) -> str:
    """The same table as GitHub and GitLab render it."""
    return "\n".join(_markdown(base, in_order(comparisons), names, undecided)) + "\n"


FORMATS: Final[
    Mapping[str, Callable[[str, Sequence[Comparison], Names, Mapping[str, str]], str]]
] = {
    "text": as_text,
    "md": as_markdown,
}
"""Formats for people: of the base's run id, the comparisons, the names of runs, and the runs
that should have been compared and could not be, with the reason."""


def as_gates(
    comparisons: Sequence[Comparison],
    names: Names = NAMELESS,
    undecided: Mapping[str, str] = NONE,
) -> str:
    """What each condition says of each run; nothing without conditions."""
    said = {one.b: as_gate(one.verdicts, "  ") for one in in_order(comparisons) if one.verdicts}
    if said:
        said |= {run: wrapped(f"not decided: {why}.", "  ") for run, why in undecided.items()}
    rows = (f"{names.get(run, run)}\n{lines}" for run, lines in said.items())
    return "".join((*rows, *map(wrapped, family_line(_every_verdict(comparisons)))))


def _every_verdict(comparisons: Sequence[Comparison]) -> Iterator[Verdict]:
    return (verdict for one in comparisons for verdict in one.verdicts)


def _said(ordered: Sequence[Comparison], names: Names) -> Iterator[str]:
    """What was compared, and what was not."""
    sizes = sorted({one.n_prompts for one in ordered})
    first = ordered[0].document["first_position"]
    start = f", positions from {first} on" if first else ""
    order = _ORDERS[order_of(ordered)] if len(ordered) > 1 else ""
    counts = {one.n_tokens for one in ordered}
    drawn = next((one.document["drawn"] for one in ordered if one.document["drawn"]), None)
    over = f" over the first {sizes[0]} prompts" if len(sizes) == 1 else ""
    of = f", {max(counts):,} tokens each" if len(counts) == 1 and not drawn else ""
    yield f"{_count(ordered)}{over}{of}{start}{order}."
    if len(sizes) > 1:
        yield (
            f"Runs share {sizes[0]} to {sizes[-1]} prompts with A, so rows are of different "
            f"tokens. --prompts {sizes[0]} compares all runs over the same tokens."
        )
    if drawn:
        yield f"Predictions: of {max(counts):,} tokens each, drawn with seed {drawn['seed']}."
    found: dict[str, list[str]] = {}
    for one in ordered:
        same = ["Every difference is exactly 0."] if one.is_nothing else []
        missing = [f"No KL: {one.no_logits}"] if one.no_logits else []
        for note in (*same, *missing, *one.document["notes"]):
            found.setdefault(note, []).append(names.get(one.b, one.b))
    yield from (f"{', '.join(of)}: {note}" for note, of in found.items())


def _count(ordered: Sequence[Comparison]) -> str:
    return f"{len(ordered)} run{'s' * (len(ordered) > 1)}"


def _cells(one: Comparison) -> Iterator[tuple[str, float | None]]:
    """Of one run what `_HEADS` names: each number, and its error where there is one."""
    yield str(one.n_prompts), None
    yield _mean(one.predictions["kl"])
    yield _mean(one.predictions["flips"], 100)
    yield _mean(one.predictions["log_perplexity"])
    deepest = one.sites[-1]
    for name in (DISTANCE, "cka"):
        estimate = getattr(deepest, name)
        yield number(estimate.value), estimate.stderr


def _flags(one: Comparison) -> list[str]:
    """Flags of the deepest site, whose distance and CKA the table has."""
    found: list[str] = one.document["sites"][-1]["flags"]
    return found


def _mean(one: Summary, scale: int = 1) -> tuple[str, float | None]:
    value, stderr = (None if part is None else scale * part for part in (one.mean, one.stderr))
    return number(value), stderr


def _meanings(base: str, ordered: Sequence[Comparison]) -> str:
    deepest = dict.fromkeys(one.sites[-1].site for one in ordered)
    return _MEANINGS.format(site=" or ".join(deepest), base=base)


def _depth(ordered: Sequence[Comparison], names: Names) -> str:
    """A strip for each run: distance at each site, on one scale."""
    sites = _in_depth(ordered)
    step = -(-len(sites) // STRIP)
    groups = [sites[first : first + step] for first in range(0, len(sites), step)]
    distances = [_distances(one) for one in ordered]
    most = max((d for of in distances for d in of.values()), default=0.0)
    made = plain_table()
    made.collapse_padding = True
    made.add_column("run", no_wrap=True)
    made.add_column("distance in depth", no_wrap=True)
    made.add_column("largest", justify="right", no_wrap=True)
    made.add_column("at", no_wrap=True)
    for one, of in zip(ordered, distances, strict=True):
        columns = [[of[site] for site in group if site in of] for group in groups]
        strip = "".join(_column(max(some, default=None), most) for some in columns)
        place = max(of, key=lambda site: of[site]) if of else None
        made.add_row(
            broken(names.get(one.b, one.b)),
            strip,
            number(of[place] if place else None),
            place or "",
        )
    grouped = f" or the largest of {step} beside each other" if step > 1 else ""
    said = _STRIP.format(grouped=grouped, first=sites[0], last=sites[-1], most=number(most))
    return rendered(made) + wrapped(said)


def _in_depth(ordered: Sequence[Comparison]) -> list[str]:
    """Every site that is compared, in depth order."""
    depths = {site.site: site.depth for one in ordered for site in one.sites}
    return sorted(depths, key=lambda site: (depths[site], site == "final"))


def _distances(one: Comparison) -> dict[str, float]:
    """The relative distance of each site that has one."""
    return {
        site.site: site.relative_distance.value
        for site in one.sites
        if site.relative_distance.value is not None
    }


def _column(value: float | None, most: float) -> str:
    """One character of a strip.

    >>> [_column(value, 0.8) for value in (0.8, 0.41, 0.001, 0.0, None)]
    ['█', '▅', '▁', ' ', '-']
    """
    if value is None:
        return "-"
    if value == 0:
        return " "
    return _HEIGHTS[min(int(len(_HEIGHTS) * value / most), len(_HEIGHTS) - 1)]


def _markdown(
    base: str, ordered: Sequence[Comparison], names: Names, undecided: Mapping[str, str]
) -> Iterator[str]:
    yield f"### Drift from {code(names.get(base, base))} (A) to {_count(ordered)}"
    yield ""
    for line in _said(ordered, names):
        yield f"- {escaped(line)}"
    if any(one.verdicts for one in ordered):
        yield ""
        yield row(("gate", "run", "condition", "number"))
        yield row(("---",) * 4)
        for one in ordered:
            for fate, *rest in gate_rows(one.verdicts):
                yield row((fate, code(names.get(one.b, one.b)), *rest))
        for run, why in undecided.items():
            yield row(("not decided", code(names.get(run, run)), "", escaped(f"{why}.")))
        for one in ordered:
            yield from reason_lines(one.verdicts, f"{code(names.get(one.b, one.b))}: ")
        yield from (f"\n{line}" for line in family_line(_every_verdict(ordered)))
    yield ""
    yield row(("run", *_HEADS, "flags", "largest distance"))
    yield row(("---", *("---:" for _ in _HEADS), "---", "---"))
    for one in ordered:
        cells = (f"{value} {error(stderr)}".rstrip() for value, stderr in _cells(one))
        flags = ", ".join(map(code, _flags(one)))
        yield row((code(names.get(one.b, one.b)), *map(escaped, cells), flags, _largest(one)))
    yield ""
    yield escaped(_meanings(names.get(base, base), ordered))
    yield from flag_lines(flag for one in ordered for flag in _flags(one))
    if names:
        yield ""
        for run in dict.fromkeys((base, *(one.b for one in ordered))):
            yield f"- {code(names[run])}: run {code(run)}"


def _largest(one: Comparison) -> str:
    of = _distances(one)
    if not of:
        return number(None)
    place = max(of, key=lambda site: of[site])
    return f"{number(of[place])} at {code(place)}"
