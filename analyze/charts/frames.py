"""From the frame of a table to the rows of a chart: columns, settings, curves, tooltips, words.

Names are untrusted. A chart holds them only as values of fields, never in an expression, a field's
name or markup. Characters that cannot be printed become U+FFFD: SVG forbids control characters, and
a direction mark could turn the text around it.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

import polars as pl

from lpp.analyze.charts.run_styles import RunStyles, styles_of
from lpp.analyze.charts.theme import alt
from lpp.store.errors import InputError

SETTING: Final = ("context", "n_prompts")

_SHOWN: Final = (
    *("label", "minus", "site", "other_site", "value", "stderr", "low", "high", "flags", "prefix"),
    *("rank", "eigenvalue", "step", "first", "end", "kl_from", "kl_below", "n_tokens", "n_prompts"),
    *("confidence", "coverage", "n_answered", "n", "shuffled_low", "shuffled_high", "expert"),
)
"""Columns that a tooltip shows, in order."""
TITLES: Final = {
    "label": "run",
    "other_site": "and",
    "stderr": "standard error",
    "low": "95 % from",
    "high": "95 % to",
    "first": "positions from",
    "end": "positions below",
    "n_tokens": "tokens",
    "n_prompts": "prompts",
    "shuffled_low": "shuffled from",
    "shuffled_high": "shuffled to",
}
"""Their titles, where these are not their names with spaces."""


def plain(value: Any) -> Any:
    """A value as JSON and SVG can hold it: 6 digits of a number, no -0, null for NaN, printable
    text.
    """
    if isinstance(value, str):
        return "".join(c if c.isprintable() else "\ufffd" for c in value)
    if isinstance(value, float):
        return float(f"{value:.6g}") + 0.0 if math.isfinite(value) else None
    return value


def shortened(text: str, width: int = 28) -> str:
    """A printable name with its middle left out: names of models differ at the ends.

    >>> shortened("smollm2-135m-instruct-q4-1-untrained")
    'smollm2-135m-…q4-1-untrained'
    """
    text, head = plain(text), (width - 1) // 2
    return text if len(text) <= width else f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


# frames


def checked(frame: pl.DataFrame, table: str, columns: Iterable[str]) -> pl.DataFrame:
    """`frame`, which has `columns`, with `first_position`. Raises InputError that names those that
    are missing.
    """
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise InputError(
            f"no table {table}: the column {', '.join(missing)} is missing. "
            f"`lpp-sql STORE 'FROM {table}'` shows its columns."
        )
    first = pl.col("first_position") if "first_position" in frame.columns else pl.lit(None)
    return frame.with_columns(first_position=first.cast(pl.Int32).fill_null(0))


def measured(frame: pl.DataFrame, name: str, *, log: bool = False) -> pl.DataFrame:
    """`frame` with its number `name` as `value`, its standard error as `stderr`, and the ends of
    its 95 % interval as `low` and `high`. What `frame` lacks is null; so is an interval without a
    value, or on a log axis one that reaches 0.
    """
    parts = {"value": "", "stderr": "_stderr", "low": "_ci_low", "high": "_ci_high"}
    frame = frame.with_columns(
        (pl.col(f"{name}{end}") if f"{name}{end}" in frame.columns else pl.lit(None))
        .cast(pl.Float64)
        .alias(part)
        for part, end in parts.items()
    )
    if f"{name}_prefix" in frame.columns:
        frame = frame.with_columns(prefix=f"{name}_prefix")
    there = pl.all_horizontal(pl.col("value", "low", "high").is_finite())
    return frame.with_columns(
        pl.when(there & (pl.col("low") > 0) if log else there).then(pl.col("low", "high"))
    )


def at_largest(frame: pl.DataFrame, columns: Sequence[str], *keys: str) -> pl.DataFrame:
    """The rows of each of `keys` with its largest value in each of `columns`, in turn."""
    for name in columns:
        frame = frame.filter(pl.col(name) == pl.col(name).max().over(keys))
    return frame


def fullest(frame: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """The rows of each run at its longest context and most prompts; and a note of what they are."""
    keep = at_largest(frame, SETTING, "run")
    left = frame.select("run", *SETTING).n_unique() - keep.select("run", *SETTING).n_unique()
    return keep, [*settings(keep), *([f"{left} smaller settings are left out"] if left else [])]


def settings(frame: pl.DataFrame, *keys: str) -> list[str]:
    """A note of the settings of the rows, if any. keys: columns that are named before them."""
    unique = frame.select(*keys, *SETTING).unique().sort(*keys, *SETTING).rows()
    named = [
        ", ".join([*map(plain, key), f"context {context} tokens", f"{n} prompts"])
        for *key, context, n in unique[:3]
    ]
    more = [f"and {len(unique) - 3} settings more"] if unique[3:] else []
    return ["; ".join([*named, *more])] if named else []


# curves: a `label` has a colour and a shape, a `curve` a line, a `place` their order


def of_runs(frame: pl.DataFrame, runs: RunStyles | None) -> pl.DataFrame:
    """`frame` with the label of each row's run, and the letter of its curve."""
    styles = styles_of({*frame["run"]}, runs)
    named = [
        (run, label_of(styles, run), styles.letter(run), place)
        for place, run in enumerate(styles.order)
    ]
    return _curves(frame, ["run"], named)


def label_of(styles: RunStyles, run: str) -> str:
    """The letter of a run and its name, of which a chart has room for 28 characters."""
    return f"{styles.letter(run)} {shortened(styles.name(run))}"


def of_names(frame: pl.DataFrame, column: str) -> pl.DataFrame:
    """`frame` with its names in `column` as labels and curves; they are not those of runs."""
    names = sorted({*frame[column]})
    short = [shortened(name) for name in names]
    labels = short if len({*short}) == len(short) else [plain(name) for name in names]
    return _curves(frame, [column], [*zip(names, labels, labels, range(len(names)), strict=True)])


def of_pairs(frame: pl.DataFrame, runs: RunStyles | None) -> tuple[pl.DataFrame, list[str]]:
    """`frame` with the label and curve of each pair, and a note that names the only first run.

    A pair has the style and the name of its second run. Without the styles of a page, first runs of
    pairs have the first letters.
    """
    firsts, seconds = (sorted({*frame[name]}) for name in ("run_a", "run_b"))
    styles = (runs or RunStyles.of_ids([*firsts, *seconds])).including([*firsts, *seconds])
    before = {a: f"{styles.letter(a)}→" if len(firsts) > 1 else "" for a in firsts}
    named = [
        (a, b, before[a] + label_of(styles, b), before[a] + styles.letter(b), styles[b].place)
        for a, b in frame.select("run_a", "run_b").unique().rows()
    ]
    note = [f"Compared with {label_of(styles, a)}" for a in firsts if len(firsts) == 1]
    return _curves(frame, ["run_a", "run_b"], named), note


def _curves(frame: pl.DataFrame, keys: list[str], named: Sequence[Any]) -> pl.DataFrame:
    """named: `keys`, label, curve, place. Rows from position 2 on are of the curve `B-2`."""
    schema = {**dict.fromkeys((*keys, "label", "curve"), pl.String), "place": pl.Int64}
    frame = frame.drop({"label", "curve"} - {*keys}, strict=False)
    frame = frame.with_columns(pl.col(keys).cast(pl.String)).join(
        pl.DataFrame(named, schema, orient="row"), keys, "left", maintain_order="left"
    )
    cut = pl.when(pl.col("first_position") > 0)
    return frame.with_columns(
        curve=cut.then(pl.format("{}-{}", "curve", "first_position")).otherwise("curve")
    )


# data and words


def data(frame: pl.DataFrame) -> Any:
    """Rows inside the chart, every value `plain`, without nulls: it needs no other file."""
    rows = ({name: plain(value) for name, value in row.items()} for row in frame.to_dicts())
    return alt.InlineData(values=[{k: v for k, v in row.items() if v is not None} for row in rows])


def tipped(
    frame: pl.DataFrame, drawn: Collection[str], **titles: str
) -> tuple[pl.DataFrame, list[Any]]:
    """The columns `drawn` and those of `_SHOWN` that differ, and tooltips of the latter.

    titles: replace those of `TITLES`. A column of numbers is not shown if any is missing.
    """
    frame = frame.with_columns(
        pl.col(name).cast(pl.List(pl.String)).list.join(", ")
        for name, dtype in frame.schema.items()
        if isinstance(dtype, pl.List)
    )
    texts = [name for name, dtype in frame.schema.items() if dtype == pl.String]
    frame = frame.with_columns(pl.col(texts).replace("", None).fill_null("none"))
    shown = [
        name
        for name in _SHOWN
        if name in frame.columns
        and not frame[name].null_count()
        and (name in drawn or frame[name].n_unique() > 1)
    ]
    tips = []
    for name in shown:
        title = {**TITLES, **titles}.get(name, name.replace("_", " "))
        tip = alt.Tooltip(f"{name}:{'N' if name in texts else 'Q'}", title=title)
        form = ".4~g" if frame[name].dtype.is_float() else ",d"
        tips.append(tip if name in texts else tip.format(form))
    return frame.select(*dict.fromkeys((*drawn, *shown))), tips


def bars(frame: pl.DataFrame, over: str = "prompts") -> list[str]:
    """A note of what the bars from `low` to `high` mean, where there are any."""
    return [f"Bars: 95 % intervals over {over}."] if frame["low"].count() else []


def listing(parts: Sequence[str], most: int = 12) -> str:
    """Parts of a description; beyond `most`, their number."""
    more = [f"and {len(parts) - most} more"] if len(parts) > most else []
    return "; ".join([*parts[:most], *more])


def said(rows: pl.DataFrame, template: str) -> str:
    """The values of columns in a template, for each row.

    >>> said(pl.DataFrame({"site": ["embed", "final"], "value": [0.25, 1.0]}), "{site} {value:.2f}")
    'embed 0.25; final 1.00'
    """
    values = [{name: plain(value) for name, value in row.items()} for row in rows.to_dicts()]
    return listing([template.format(**row) for row in values])


def nothing(table: str, frame: pl.DataFrame, command: str) -> str:
    """Why there is nothing to draw of `frame`, and what changes that."""
    if frame.is_empty():
        return f"No {table}: the table has no rows. {command} makes them."
    rows = f"{len(frame)} row{'s' * (len(frame) != 1)}"
    return f"No {table}: the table has {rows}, none of them with a value."
