"""`where`: which rows a feed gives, as a condition of SQL over columns of tokens and prompts.

A field of the prompts is `field.X`, a value by token `token.X`, as the table of prompts names them,
and a column that every run has is `row.X`. X alone will do where one of them has that name.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from lpp.store.errors import ErrorKind, FormatError, InputError
from lpp.store.feed.spans import shard_edges
from lpp.store.format.keys import TOKENS_KEY
from lpp.store.format.prompt_columns import FIELD_PREFIX, TOKEN_PREFIX
from lpp.store.format.rows import positions
from lpp.store.format.tables import STATISTICS, TOKENS_SCHEMA
from lpp.store.runs.read import Run, by_token
from lpp.store.settings.arguments import refused
from lpp.store.settings.reading import near

OF_POSITION: Final = ("prompt_id", "position", "n_tokens", "token_id")
"""Columns of every token of every run."""

Measured: TypeAlias = Mapping[str, Callable[[], npt.NDArray[np.generic]]]
"""Columns that are computed from the rows of the site: (rows of the run,) each."""

_OTHER_ROWS: Final = re.compile(
    r"\.(mean|sum|min|max|count|len|first|last|median|std|var|quantile|n_unique|rank|over|shift"
    r"|diff|cum_\w+|implode|explode|sort\w*|unique)\(|\b(len|int_range|subplan)\("
)
"""Parts of a condition whose value depends on other rows: it would depend on how many are read at a
time."""

_NAMES: Final = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\b(field|token|row)\.(?:"([^"]+)"|(\w+(?:\.\w+)*))"""
)
"""Texts and quoted names, and names of two parts, which become quoted ones."""

_ROW_PREFIX: Final = "row."

_BLOCK_TOKENS: Final = 1 << 20
"""Tokens whose columns are in memory at a time, approximately."""


def kept_rows(run: Run, where: str | None, measured: Measured) -> npt.NDArray[np.uint8] | None:
    """One bit for each row of `run`, most significant first: whether `where` holds for it and its
    prompt is no branch. None if that is every row.

    Raises InputError for a condition that is none, and for a column that the run lacks.
    """
    branch = run.branch_of >= 0
    if where is None and not branch.any():
        return None
    known = [*OF_POSITION, *STATISTICS, *measured, *run.plan.prompts.token_columns, *_fields(run)]
    condition, columns = _condition(where, known)
    bits, rest = [], np.zeros(0, bool)
    for frame in _frames(run, {*columns.values()}, measured):
        of_prompts = branch[frame["prompt_id"].to_numpy()]
        kept = _holds(frame, condition, columns, where) & ~of_prompts
        kept = np.concatenate([rest, kept])
        whole = len(kept) // 8 * 8
        bits.append(np.packbits(kept[:whole]))
        rest = kept[whole:]
    return np.concatenate([np.zeros(0, np.uint8), *bits, np.packbits(rest)])


def kept_prompts(run: Run, where: str | None) -> npt.NDArray[np.bool_]:
    """(count,) whether `where`, on columns of prompts, holds for each prompt, and it is no branch.

    Raises what `kept_rows` raises.
    """
    names = _fields(run)
    condition, columns = _condition(where, ["prompt_id", "n_tokens", *names])
    frame = pl.DataFrame(pl.from_arrow(run.prompts(*names).drop_columns(["token_ids"])))
    return _holds(frame, condition, columns, where) & ~(run.branch_of >= 0)


def readable_prompts(run: Run, where: str | None = None) -> npt.NDArray[np.bool_]:
    """(count,) as `kept_prompts`, without prompts that were set aside. FormatError for a shard
    without a valid record.
    """
    for why in run.left_out.values():
        raise FormatError(why, kind=ErrorKind.CORRUPT)
    kept = kept_prompts(run, where)
    kept[run.quarantined] = False
    return kept


def _condition(where: str | None, known: Sequence[str]) -> tuple[pl.Expr, dict[str, str]]:
    """The condition, and the column of `known` that each name in it means."""
    if where is None:
        return pl.lit(True), {}
    if not isinstance(where, str):
        raise refused("where", where, "a condition of SQL, a text")
    try:
        condition = pl.sql_expr(_NAMES.sub(_quoted, where))
        names = condition.meta.root_names()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise _refusal(where, f"no condition of SQL ({error})") from None
    if _OTHER_ROWS.search(str(condition)):
        raise _refusal(where, "a condition on one row cannot ask for others (avg, count, rank)")
    return condition, {name: _column(where, name, known) for name in names}


def _quoted(name: re.Match[str]) -> str:
    kind, quoted, plain = name.groups()
    return f'"{kind}.{quoted or plain}"' if kind else name[0]


def _column(where: str, name: str, known: Sequence[str]) -> str:
    """The column of `known` that `name` means. InputError if it means none, or several."""
    if name in known and name.startswith((FIELD_PREFIX, TOKEN_PREFIX)):
        return name
    of_every_run = name.removeprefix(_ROW_PREFIX)
    if of_every_run != name and of_every_run in known:
        return of_every_run
    meant = [c for c in (name, TOKEN_PREFIX + name, FIELD_PREFIX + name) if c in known]
    if len(meant) > 1:
        spelled = [c if c != name else _ROW_PREFIX + name for c in meant]
        raise _refusal(where, f"{name} is {len(meant)} columns: write {' or '.join(spelled)}")
    if not meant:
        raise _refusal(where, f"no column {name}.{near(name, known)} There are: {', '.join(known)}")
    return meant[0]


def _holds(
    frame: pl.DataFrame, condition: pl.Expr, columns: Mapping[str, str], where: str | None
) -> npt.NDArray[np.bool_]:
    """(n,) whether the condition holds in each row; where it is null, it does not. columns: of
    `frame`, by the name in the condition.
    """
    named = frame.select(pl.col(column).alias(name) for name, column in columns.items())
    try:
        values = named.select(condition.alias("holds")).get_column("holds")
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise _refusal(str(where), str(error)) from None
    if values.dtype != pl.Boolean:
        raise _refusal(str(where), f"a value of type {values.dtype}, not true or false")
    holds: npt.NDArray[np.bool_] = values.fill_null(value=False).to_numpy()
    return np.broadcast_to(holds, len(frame)) if len(holds) == 1 else holds


def _refusal(where: str, why: str) -> InputError:
    return InputError(f"where={where!r}: {why}. Such as: where='position >= 2 and not sink'.")


def _fields(run: Run) -> list[str]:
    """Columns of prompts that a condition may name."""
    return [n for n in run.extra_columns.names if n == "id" or n.startswith(FIELD_PREFIX)]


def _frames(run: Run, names: set[str], measured: Measured) -> Iterator[pl.DataFrame]:
    """The columns `names`, and prompt_id, of all rows of `run`, those of some shards at a time."""
    edges, lengths = shard_edges(run), run.lengths
    fields = [name for name in _fields(run) if name in names]
    labels = [name for name in run.plan.prompts.token_columns if name in names]
    table = run.prompts(*fields, *labels)
    by_label = {name: by_token(table[name].combine_chunks(), lengths) for name in labels}
    prompts = pl.DataFrame(pl.from_arrow(table))
    computed = {name: measured[name]() for name in measured if name in names}
    for first, last in pairwise(_groups(edges)):
        of = slice(run.plan.shards[first], run.plan.shards[last])
        n = lengths[of]
        repeat = np.repeat(np.arange(len(n)), n)
        here = prompts[of]
        columns = {
            "prompt_id": np.arange(of.start, of.stop)[repeat],
            "position": positions(n),
            "n_tokens": n[repeat],
            **{name: values[edges[first] : edges[last]] for name, values in computed.items()},
        }
        frame = pl.DataFrame({k: v for k, v in columns.items() if k in names or k == "prompt_id"})
        for name, values in by_label.items():
            part = values.slice(edges[first], edges[last] - edges[first])
            frame = frame.with_columns(pl.Series(name, pl.from_arrow(part)))
        if "token_id" in names:
            frame = frame.with_columns(here.get_column("token_ids").explode().alias("token_id"))
        for name in fields:
            frame = frame.with_columns(here.get_column(name).gather(repeat))
        if statistics := names & {*STATISTICS}:
            tokens = [_statistics(run, k, sorted(statistics)) for k in range(first, last)]
            frame = pl.concat([frame, pl.concat(tokens)], how="horizontal")
        yield frame


def _groups(edges: npt.NDArray[np.int64]) -> list[int]:
    """Shards at which groups of about `_BLOCK_TOKENS` begin, then the number of shards."""
    block = edges[:-1] // _BLOCK_TOKENS
    starts = np.flatnonzero(np.diff(block, prepend=-1))
    return [*starts.tolist(), len(edges) - 1]


def _statistics(run: Run, index: int, names: list[str]) -> pl.DataFrame:
    """Statistics of the logits of the tokens of a shard; null for one that is missing."""
    shard = run.shard(index)
    if shard is None:
        first, end = shard_edges(run)[index : index + 2].tolist()
        known = pl.DataFrame(pl.from_arrow(TOKENS_SCHEMA.empty_table())).schema
        schema = {name: known[name] for name in names}
        return pl.DataFrame({name: [None] * (end - first) for name in names}, schema=schema)
    table = shard.table(TOKENS_KEY, TOKENS_SCHEMA, rows=shard.rows)
    return pl.DataFrame(pl.from_arrow(table.select(names)))
