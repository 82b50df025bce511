"""Drift as text for a terminal, and as Markdown for a pull request."""

import html
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from rich.cells import cell_len

from lpp.analyze.drift.drift import Drift
from lpp.analyze.drift.gate import LEVEL, Verdict
from lpp.analyze.drift.summaries import Summary, by_position
from lpp.analyze.drift.worst import Expected, WorstToken, order_of
from lpp.analyze.numerics.jackknife import Estimate
from lpp.analyze.quantities.drift import PREDICTIONS, SITE_CHANGES
from lpp.analyze.quantities.quantity import capital, legend
from lpp.analyze.runs.named import names_of_two
from lpp.analyze.tables.flags import MEANING
from lpp.analyze.text import text
from lpp.analyze.text.markdown import code, escaped, row
from lpp.analyze.text.text import (
    WIDTH,
    error,
    explained,
    marks,
    number,
    numbered,
    plain_table,
    rendered,
    token,
    wrapped,
)
from lpp.store.format.run_names import name_and_id

_PREDICTIONS: Final = f"{legend(PREDICTIONS.values())}. ±: standard error over prompts."
_BANDS: Final = ("position", "tokens", "kl", "flips")
_POSITIONS: Final = (
    "position: of the token in its prompt, from 0; kl and flips are means, as above."
)
_SITES: Final = f"{legend(SITE_CHANGES.values())}. ±: paired standard error over prompts."
_NOTHING: Final = "Every difference is exactly 0."


def as_json(
    drift: Drift, verdicts: Sequence[Verdict] = (), items: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Everything but the tokens, for programs; items: as of `compared`."""
    return text.as_json({**with_gate(drift.document(), verdicts), "items": list(items)})


def with_gate(document: Mapping[str, Any], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """`Drift.document` with what its gate says."""
    return {
        **document,
        "gate": [
            {
                "condition": one.condition.text,
                "value": one.value,
                "decisive": one.decisive,
                "level": one.level,
                "tests": one.tests,
                "site": one.site,
                "outcome": one.outcome,
                "failed": one.failed,
                "why": one.why or None,
            }
            for one in verdicts
        ],
    }


def as_text(
    drift: Drift, worst: Sequence[WorstToken] = (), verdicts: Sequence[Verdict] = ()
) -> str:
    """Two tables, the tokens that changed most and the gate, at 80 columns."""
    out = io.StringIO()
    sides = drift.pair.a, drift.pair.b
    for letter, name, view in zip("AB", names_of_two(*sides), sides, strict=True):
        out.write(name_and_id(f"{letter}  {name}", view.run.id) + "\n")
    for line in what_was_compared(drift):
        out.write(wrapped(line))
    out.write(_predictions(drift.predictions) + wrapped(_PREDICTIONS))
    out.writelines(map(wrapped, _ties(drift.predictions)))
    out.write(_positions(drift) + wrapped(_POSITIONS))
    numbers = numbered(_every_flag(drift))
    out.write(_sites(drift, numbers) + wrapped(_SITES))
    out.writelines(f"{line}\n" for line in explained(numbers))
    if worst:
        out.write(f"\n{_worst_title(drift)}\n")
        out.writelines(f"{line}\n" for one in worst for line in _worst(one))
    if verdicts:
        out.write("\nGate\n" + as_gate(verdicts))
        out.writelines(map(wrapped, family_line(verdicts)))
    return out.getvalue()


def as_gate(verdicts: Sequence[Verdict], indent: str = "") -> str:
    """A line on each condition, and why some are not decided; each line begins with `indent`."""
    width = max((len(one.condition.text) for one in verdicts), default=0)
    fates = [one.outcome.replace("fail", "FAIL") for one in verdicts]
    first = max(map(len, ("not met", *fates)))
    lines = (
        f"{indent}{fate:{first}}  {one.condition.text:{width}}  {_verdict(one)}\n"
        for fate, one in zip(fates, verdicts, strict=True)
    )
    return "".join(lines) + "".join(wrapped(line, indent) for line in not_decided(verdicts))


def not_decided(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Why conditions are not decided: a sentence on each reason."""
    reasons: dict[str, list[str]] = {}
    for one in verdicts:
        if one.why:
            reasons.setdefault(one.why, []).append(one.condition.text)
    yield from (f"{', '.join(of)}: not decided, as {why}" for why, of in reasons.items())


def as_markdown(
    drift: Drift, worst: Sequence[WorstToken] = (), verdicts: Sequence[Verdict] = ()
) -> str:
    """The same as GitHub and GitLab render it."""
    return "\n".join(_markdown(drift, worst, verdicts)) + "\n"


def what_was_compared(drift: Drift) -> Iterator[str]:
    """What was compared, and what was not."""
    every, compared = drift.pair.n_tokens(drift.first_position), len(drift.tokens)
    start = f", positions from {drift.first_position} on" if drift.first_position else ""
    held = [view.run.n_prompts for view in (drift.pair.a, drift.pair.b)]
    size = drift.pair.n_prompts
    of = "" if {*held} == {size} else f" of {held[0]} in A and {held[1]} in B"
    yield f"The first {size} prompts{of}: {every:,} tokens{start}."
    if drift.is_nothing:
        who = "A and B are one run. " if drift.pair.of_one_run else ""
        yield f"{who}{_NOTHING}"
    if drift.seed is not None:
        yield f"Predictions: of {compared:,} tokens, drawn with seed {drift.seed}."
    if drift.pair.cluster is not None:
        yield (
            f"Errors are over clusters: prompts with the same {drift.pair.cluster} are left out "
            "together."
        )
    if drift.arithmetic:
        yield f"{capital(drift.arithmetic)}."
    if drift.no_logits is not None:
        yield f"No KL: {drift.no_logits}"
    yield from drift.notes


def _predictions(found: Mapping[str, Summary]) -> str:
    made = plain_table()
    made.collapse_padding = True
    for head in ("predictions", "unit"):
        made.add_column(head, no_wrap=True)
    for head in ("mean", "median", "p99", "max"):
        made.add_column(head, justify="right", no_wrap=True)
    for name, cells in _prediction_rows(found):
        made.add_row(name, PREDICTIONS[name].unit, *cells)
    return rendered(made)


def _prediction_rows(found: Mapping[str, Summary]) -> Iterator[tuple[str, list[str]]]:
    """Of each number: its name, mean and error, median, 99th percentile, maximum."""
    for name, declared in PREDICTIONS.items():
        one = found[name]
        mean = f"{number(one.mean)} {error(one.stderr)}".rstrip()
        rest = {"median": one.median, "p99": one.p99, "max": one.max}
        shown = (number(rest[key]) if key in declared.statistics else "" for key in rest)
        yield name, [mean, *shown]


def _ties(found: Mapping[str, Summary]) -> Iterator[str]:
    """How often ties decide flips and top10; nothing where none does."""
    for name, where in (("flips", "the two most likely tokens"), ("top10", "the 10th and 11th")):
        if share := found[name].ties:
            yield (
                f"Ties: at {100 * share:.2g} % of the tokens {where} are equal in A or B, and "
                f"{name} depends on ids."
            )


def _positions(drift: Drift) -> str:
    made = plain_table()
    made.collapse_padding = True
    made.add_column(_BANDS[0], no_wrap=True)
    for head in _BANDS[1:]:
        made.add_column(head, justify="right", no_wrap=True)
    for cells in _position_rows(drift):
        made.add_row(*cells)
    return rendered(made)


def _position_rows(drift: Drift) -> Iterator[tuple[str, ...]]:
    """Of each band of positions: the first and the last one, tokens, KL, flips."""
    for band in by_position(drift.tokens, drift.pair.groups).iter_rows(named=True):
        first, last = band["first"], band["end"] - 1
        numbers = (
            f"{number(band[name])} {error(band[f'{name}_stderr'])}".rstrip()
            for name in ("kl", "flips")
        )
        yield (
            f"{first}" if first == last else f"{first} to {last}",
            f"{band['n_tokens']:,}",
            *numbers,
        )


def _every_flag(drift: Drift) -> list[str]:
    return [flag for flags in drift.flags for flag in flags]


def _sites(drift: Drift, numbers: Mapping[str, int]) -> str:
    """numbers: the number that stands for each flag."""
    made = plain_table()
    made.collapse_padding = True
    made.add_column("site", no_wrap=True)
    for declared in SITE_CHANGES.values():
        made.add_column(declared.heading, justify="right", no_wrap=True)
    made.add_column("flags", no_wrap=True)
    for one, flags in zip(drift.sites, drift.flags, strict=True):
        cells = [_two_lines(one[name]) for name in SITE_CHANGES]
        made.add_row(one.site, *cells, marks(flags, numbers))
    return rendered(made)


def _two_lines(one: Estimate) -> str:
    """A number, its error below."""
    return f"{number(one.value)}\n{error(one.stderr, '±')}".rstrip()


def _worst_title(drift: Drift) -> str:
    what = "KL(A || B)" if order_of(drift) == "kl" else "ln p(next)"
    verb = "is largest" if order_of(drift) == "kl" else "changed most"
    return f"Where {what} {verb}: nats, the text so far, the next token"


def _worst(one: WorstToken) -> Iterator[str]:
    """Two lines on a token."""
    head = f"{number(one.change):>9}  {one.prompt_id}:{one.position}  "
    yield head + tail(one.context, WIDTH - len(head))
    came = "" if one.came is None else f", then came {_word(one.came)}"
    yield " " * 11 + _clipped(f"A {_expected(one.a)}, B {_expected(one.b)}{came}", WIDTH - 11)


def _expected(one: Expected) -> str:
    sure = "" if one.probability is None else f" {one.probability:.2f}"
    return f"{_word(one.token)}{sure}"


def _word(spelled: str) -> str:
    return f"'{token(spelled)}'" if spelled else "-"


def tail(context: str, width: int) -> str:
    r"""The end of a text that fits into `width` columns, without line breaks.

    >>> tail("The quick brown\nfox", 12), tail("fox", 12)
    ('… brown\\nfox', 'fox')
    """
    context = context.lstrip(" ")
    shown = [_in_context(context[start:]) for start in range(len(context))]
    whole = [f"…{end}" for end in shown[1:]]
    return next((end for end in (*shown[:1], *whole) if cell_len(end) <= width), "")


def _in_context(text: str) -> str:
    return token(text).replace("␣", " ")


def _clipped(line: str, width: int) -> str:
    if cell_len(line) <= width:
        return line
    while cell_len(line) > width - 1:
        line = line[:-1]
    return f"{line}…"


def _verdict(one: Verdict) -> str:
    """The number that a condition is about, and what decided."""
    where = f" at {one.site}" if one.site and one.condition.site is None else ""
    if one.level is None or one.value is None or one.decisive in (None, one.value):
        return f"{number(one.value)}{where}"
    end = "from" if one.decisive < one.value else "up to"
    interval = f"{percent(one.level)} % interval"
    return f"{number(one.value)}{where}, {interval} {end} {number(one.decisive)}"


def percent(level: float) -> str:
    """A level near 1 in percent: two digits of what it leaves out.

    >>> [percent(level) for level in (0.98, 0.99, 1 - 0.02 / 3, 1 - 0.02 / 32, 1 - 0.02 / 768)]
    ['98', '99', '99.33', '99.938', '99.9974']
    """
    left = 100 * (1 - level)
    return f"{100 - float(f'{left:.2g}'):.9g}"


def family_line(verdicts: Iterable[Verdict]) -> Iterator[str]:
    """How wide the intervals are, if several share the level of one."""
    if (most := max((one.tests for one in verdicts if one.level), default=1)) > 1:
        yield (
            f"The intervals of all conditions, runs and sites hold together at "
            f"{percent(LEVEL)} % (Bonferroni, of up to {most} tests)."
        )


def _markdown(
    drift: Drift, worst: Sequence[WorstToken], verdicts: Sequence[Verdict]
) -> Iterator[str]:
    a, b = drift.pair.a, drift.pair.b
    name_a, name_b = names_of_two(a, b)
    yield f"### Drift from {code(name_a)} (A) to {code(name_b)} (B)"
    yield ""
    yield f"- A is run {code(a.run.id)}, B is run {code(b.run.id)}."
    for line in what_was_compared(drift):
        yield f"- {escaped(line)}"
    if verdicts:
        yield ""
        yield row(("gate", "condition", "number"))
        yield row(("---", "---", "---"))
        yield from map(row, gate_rows(verdicts))
        yield from reason_lines(verdicts)
        yield from (f"\n{line}" for line in family_line(verdicts))
    yield ""
    yield row(("predictions", "unit", "mean", "median", "p99", "max"))
    yield row(("---", "---", "---:", "---:", "---:", "---:"))
    for name, cells in _prediction_rows(drift.predictions):
        yield row((code(name), PREDICTIONS[name].unit, *map(escaped, cells)))
    yield ""
    yield row(_BANDS)
    yield row(("---", *("---:" for _ in _BANDS[1:])))
    for band in _position_rows(drift):
        yield row(map(escaped, band))
    yield ""
    yield row(("site", *(declared.heading for declared in SITE_CHANGES.values()), "flags"))
    yield row(("---", *("---:" for _ in SITE_CHANGES), "---"))
    for site, flags in zip(drift.sites, drift.flags, strict=True):
        numbers = (_one_line(site[name]) for name in SITE_CHANGES)
        yield row((code(site.site), *numbers, ", ".join(map(code, flags))))
    if worst:
        yield ""
        yield f"<details><summary>{html.escape(_worst_title(drift))}</summary>"
        yield ""
        yield row(("nats", "prompt:position", "text so far", "A", "B", "came"))
        yield row(("---:", "---", "---", "---", "---", "---"))
        for at in worst:
            came = "" if at.came is None else code(token(at.came))
            place = f"{at.prompt_id}:{at.position}"
            told = (code(tail(at.context, WIDTH)), *map(_expected_code, (at.a, at.b)), came)
            yield row((number(at.change), place, *told))
        yield ""
        yield "</details>"
    yield ""
    yield escaped(_PREDICTIONS)
    yield from map(escaped, _ties(drift.predictions))
    yield escaped(_POSITIONS)
    yield escaped(_SITES)
    yield from flag_lines(_every_flag(drift))


def flag_lines(flags: Iterable[str]) -> Iterator[str]:
    """A list item in Markdown on each of `flags`."""
    for flag in sorted(set(flags)):
        yield f"- {code(flag)}: {escaped(MEANING[flag])}."


def reason_lines(verdicts: Sequence[Verdict], who: str = "") -> Iterator[str]:
    """A paragraph in Markdown on each reason of `not_decided`. who: the run, among several."""
    for line in not_decided(verdicts):
        yield ""
        yield f"{who}{escaped(line)}"


def gate_rows(verdicts: Sequence[Verdict]) -> Iterator[tuple[str, str, str]]:
    """Of each condition in Markdown: whether it is met, the condition, the number."""
    for one in verdicts:
        fate = "**fail**" if one.outcome == "fail" else one.outcome
        yield fate, code(one.condition.text), escaped(_verdict(one))


def _one_line(one: Estimate) -> str:
    return f"{number(one.value)} {error(one.stderr)}".rstrip()


def _expected_code(one: Expected) -> str:
    if not one.token:
        return ""
    return f"{code(token(one.token))} {_expected(one).rpartition(' ')[2]}".rstrip()


FORMATS: Final[Mapping[str, Callable[..., str]]] = {"text": as_text, "md": as_markdown}
"""Formats for people: of a drift, its worst tokens and the verdicts of its gate."""
