"""What a probe reads: rows of prompts at a site; or, for a control, what needs no rows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import polars as pl

from lpp.analyze.numerics.moments import Floats, Rows
from lpp.analyze.numerics.statistics.auroc import Codes
from lpp.analyze.probes.examples import EACH
from lpp.analyze.runs.keys import RunView
from lpp.analyze.runs.rows.token_files import read_tokens
from lpp.store.arrays.layout import NUMPY_DTYPE
from lpp.store.errors import ErrorKind, FormatError, InputError

if TYPE_CHECKING:
    from lpp.store.arrays.reader import ReadAs

MOST_TOKENS: Final = 1000
"""Distinct tokens that the bag counts: those that most prompts hold."""

Which = int | Literal["last", "mean"]
"""The row of a prompt: at a position, the last one, or the mean."""


def which_row(text: str, context: int, token_fields: Sequence[str] = ()) -> Which:
    """The row that `--rows` names; of tokens, `last`. context: of the run. token_fields: names
    beside `each`. Raises InputError for no such row.
    """
    if text == EACH or text in token_fields:
        return "last"
    if text == "last":
        return "last"
    if text == "mean":
        return "mean"
    if not (text.isascii() and text.isdigit()) or int(text) >= context:
        raise InputError(
            f"--rows {text}: it should be last, mean, a position from 0 to {context - 1}, or "
            f"{' or '.join([EACH, *token_fields])} for tokens."
        )
    return int(text)


def site_rows(
    view: RunView,
    site: str,
    prompts: Codes,
    which: Which,
    skip_first: int,
    *,
    ends: Codes | None = None,
) -> Rows:
    """(n, d) the row of each of `prompts`, ascending, at `site`: as stored, with bfloat16 as its
    bits, uint16; a mean is float32.

    skip_first: tokens that a mean leaves out. ends: (n,) tokens of each prompt that count, by
    default all; those of a prompt that repeats ascend, and have no mean.

    Reads the site once, and holds these rows. Raises FormatError where a prompt lacks its row.
    """
    run, n = view.run, len(prompts)
    end = view.lengths[prompts].astype(np.int64) if ends is None else ends
    spec, is_mean = run.site(site), which == "mean"
    dtype = np.float64 if is_mean else NUMPY_DTYPE[run.plan.dtype_read(spec)]
    rows: Rows = np.zeros((n, spec.width), dtype)
    n_rows, stride = np.zeros(n, np.int64), run.plan.context
    keys = prompts.astype(np.int64) * stride + (which if isinstance(which, int) else end - 1)
    read_as: ReadAs = "float32" if is_mean else "stored"
    for block in run.blocks(site, prompts=int(prompts[-1]) + 1, dtype=read_as):
        if is_mean:
            to = np.searchsorted(prompts, block.prompt_id)
            to[to == n] = 0
            chosen = (prompts[to] == block.prompt_id) & (block.position >= skip_first)
            chosen &= block.position < end[to]
            to, values = to[chosen], block.values[chosen]
            starts = np.flatnonzero(np.diff(to, prepend=-1))
            if len(starts):
                rows[to[starts]] += np.add.reduceat(values, starts, axis=0, dtype=rows.dtype)
            n_rows += np.bincount(to, minlength=n)
        elif len(block.position):
            held = block.prompt_id.astype(np.int64) * stride + block.position
            to = np.arange(*np.searchsorted(keys, [held[0], held[-1] + 1]))
            place = np.searchsorted(held, keys[to])
            there = held[place] == keys[to]
            rows[to[there]] = block.values[place[there]]
            n_rows[to[there]] = 1
    if not n_rows.all():
        raise FormatError(
            f"{run.path}: {site} lacks rows of prompt {prompts[int(n_rows.argmin())]}. "
            f"`lpp-analyze verify {run.path.parent.parent}` says what was altered.",
            kind=ErrorKind.CORRUPT,
        )
    return (rows / n_rows[:, None]).astype(np.float32) if is_mean else rows


def control_rows(
    view: RunView,
    prompts: Codes,
    which: Which,
    *,
    ends: Codes | None = None,
    of_tokens: bool = False,
) -> dict[str, Rows]:
    """What predicts labels without rows, by name: (n, columns) of each that varies.

    ends: as of `site_rows`. length: tokens of the prompt that count, and their square; the last
    row's position is the same number. surprisal: mean -ln p of the tokens up to the row, if the run
    has statistics of logits. tokens: how often each of `MOST_TOKENS` tokens occurs up to the row.
    of_tokens: whether rows are those of labelled tokens, of which surprisal and tokens know the
    row's own alone.
    """
    end = view.lengths[prompts].astype(np.int64) if ends is None else ends
    lengths = end.astype(np.float64)
    last = end if isinstance(which, str) else np.full(len(prompts), which + 1)
    controls: dict[str, Rows] = {"length": np.column_stack([lengths, lengths**2])}
    surprisal = _surprisal(view, prompts, last, own=of_tokens)
    if np.isfinite(surprisal).all():
        controls["surprisal"] = surprisal[:, None]
    controls["tokens"] = _bag(view, prompts, last, own=of_tokens)
    return {
        name: rows for name, rows in controls.items() if rows.size and np.ptp(rows, axis=0).any()
    }


def _surprisal(view: RunView, prompts: Codes, ends: Codes, *, own: bool) -> Floats:
    """(n,) mean surprisal of the tokens after the first one, before position `ends`; of the second
    token where that is the only one; NaN without statistics. own: of the last of them alone.
    """
    stride, result = view.run.plan.context, np.full(len(prompts), np.nan)
    limits = np.maximum(ends, 2) - 1
    firsts = limits - 1 if own else np.zeros(len(prompts), np.int64)
    for file in view.run.tokens_files():
        part = read_tokens(file, ["prompt_id", "position", "next_logprob"])
        keys = part["prompt_id"].cast(pl.Int64).to_numpy() * stride + part["position"].to_numpy()
        lnp = part["next_logprob"].cast(pl.Float64)
        sums = np.append(0, lnp.fill_null(0).cum_sum().to_numpy())
        counts = np.append(0, lnp.is_not_null().cum_sum().to_numpy())
        low, high = (np.searchsorted(keys, prompts * stride + k) for k in (firsts, limits))
        here = counts[high] > counts[low]
        low, high = low[here], high[here]
        result[here] = (sums[low] - sums[high]) / (counts[high] - counts[low])
    return result


def _bag(view: RunView, prompts: Codes, ends: Codes, *, own: bool) -> Rows:
    """(n, V) counts of the tokens that two prompts or more hold. own: of the last token alone."""
    ids = view.run.prompts()["token_ids"]
    tokens = [
        ids[k].values.to_numpy()[end - 1 if own else 0 : end]
        for k, end in zip(prompts.tolist(), ends.tolist(), strict=True)
    ]
    owner = np.repeat(np.arange(len(tokens)), [len(part) for part in tokens])
    known, column = np.unique(np.concatenate(tokens), return_inverse=True)
    cells, counts = np.unique(owner * len(known) + column, return_counts=True)
    owner, column = np.divmod(cells, len(known))
    holders = np.bincount(column, minlength=len(known))
    common = np.argsort(-holders, kind="stable")[:MOST_TOKENS]
    common = common[holders[common] > 1]
    place = np.full(len(known), -1)
    place[common] = np.arange(len(common))
    dtype = np.float16 if counts.max() <= 2048 else np.float32  # exact so far
    bag, kept = np.zeros((len(tokens), len(common)), dtype), place[column] >= 0
    bag[owner[kept], place[column[kept]]] = counts[kept]
    return bag
