"""Correlations as text: a table for each family at 80 columns."""

import io
import string
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import polars as pl

from lpp.analyze.scores.correlations import MEANING
from lpp.analyze.text.names import NAMELESS, Names
from lpp.analyze.text.text import HEADS, HEADS_MEANING, WIDTH, Row, plain_table, rendered
from lpp.analyze.text.text import as_json as json_text
from lpp.store.commands.escaping import escape

if TYPE_CHECKING:
    from rich.table import Table

_METHODS: Final = {"pearson": "Pearson", "spearman": "Spearman", "rank_partial": "partial Spearman"}
_REASONS: Final = 12
_NAMES: Final = 6


def as_table(found: pl.DataFrame, names: Names = NAMELESS) -> str:
    """Each source, method by method, at `WIDTH` columns; then what flags mean, who is missing.

    names: of the runs.
    """
    out = io.StringIO()
    letters = dict(zip(sorted({*found["flags"].explode()} - {None}), string.ascii_letters))  # noqa: B905
    for group in found.partition_by("source", maintain_order=True):
        rows = list(group.iter_rows(named=True))
        out.write("".join(f"{line}\n" for line in _title(rows)))
        for benchmark in dict.fromkeys((r["benchmark"], r["benchmark_metric"]) for r in rows):
            here = [r for r in rows if (r["benchmark"], r["benchmark_metric"]) == benchmark]
            out.write(f"\n{escape(', '.join(benchmark), keep='')}\n")
            out.write(rendered(_tests(here, letters)))
    for flag, letter in letters.items():
        text = f"{letter}  {flag}: {MEANING[flag]}."
        print(textwrap.fill(text, WIDTH, subsequent_indent="   "), file=out)
    out.write("".join(f"{line}\n" for line in left_out_lines(found, names)))
    return out.getvalue()


def as_json(found: pl.DataFrame, names: Names = NAMELESS) -> str:
    """Every test, and in `names` the short name of each run in its `models` and `left_out`, by id.

    names: of the runs.
    """
    rows = found.to_dicts()
    for row in rows:
        ids = (*row["models"], *(line.partition(": ")[0] for line in row["left_out"]))
        row["names"] = {run: names[run] for run in ids if run in names}
    return json_text(rows)


def left_out_lines(found: pl.DataFrame, names: Names = NAMELESS) -> Iterator[str]:
    """Who took no part in some test, by the reason; runs by their names."""
    reasons: dict[str, list[str]] = {}
    for line in dict.fromkeys(line for row in found["left_out"].to_list() for line in row):
        who, _, why = line.partition(": ")
        reasons.setdefault(why, []).append(names.get(who, who))
    if reasons:
        yield "Left out (who, for each test: column left_out of the table correlations):"
    for why, who in list(reasons.items())[:_REASONS]:
        more = f" and {len(who) - _NAMES} more" if len(who) > _NAMES else ""
        text = escape(f"{why}: {', '.join(who[:_NAMES])}{more}", keep="")
        yield textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="    ")
    if len(reasons) > _REASONS:
        yield f"  and for {len(reasons) - _REASONS} more reasons"


def _title(rows: Sequence[Row]) -> Iterator[str]:
    first = rows[0]
    sizes = sorted({row["family_size"] for row in rows})
    yield ""
    yield from textwrap.wrap(
        f"Scores of {escape(first['source'], keep='')}; profiles at {first['site']}, context "
        f"{first['context']}, {first['n_prompts']} prompts. q: Benjamini-Hochberg over "
        f"{' or '.join(map(str, sizes))} tests of a method. Partial Spearman holds model size "
        f"constant. {HEADS_MEANING}",
        WIDTH,
    )


def _tests(rows: Sequence[Row], letters: Mapping[str, str]) -> "Table":
    """The tests of one benchmark; a metric without a test has one line."""
    table = plain_table()
    table.add_column("profile", no_wrap=True)
    table.add_column("method", no_wrap=True)
    for head in ("n", "coef.", "95 % interval", "p", "q"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("flags", no_wrap=True)
    for metric in dict.fromkeys(row["profile_metric"] for row in rows):
        tests = [row for row in rows if row["profile_metric"] == metric]
        made = [row for row in tests if row["coefficient"] is not None]
        for place, row in enumerate(made or tests[:1]):
            table.add_row(
                HEADS.get(metric.replace("_floor", "_norm"), metric) if place == 0 else "",
                _METHODS[row["method"]] if made else "no test",
                str(row["n_models"]),
                _signed(row["coefficient"]),
                _interval(row),
                _share(row["p_value"]),
                _share(row["q_value"]),
                "".join(letters[flag] for flag in row["flags"]),
            )
    return table


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _interval(row: Row) -> str:
    low, high = row["ci_low"], row["ci_high"]
    return "-" if low is None else f"{low:+.2f} {high:+.2f}"


def _share(value: float | None) -> str:
    """A probability with two digits that say something.

    >>> [_share(value) for value in (0.1234, 0.00123, 1e-9, 1.0, None)]
    ['.12', '.0012', '<.0001', '1.00', '-']
    """
    if value is None:
        return "-"
    if value < 1e-4:
        return "<.0001"
    return f"{value:.2f}".lstrip("0") if value >= 0.1 else f"{value:.2g}".lstrip("0")
