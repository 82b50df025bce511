"""What a probe reads: a row of each prompt at a site; or, for a control, what needs no rows."""

from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from lpp.analyze.numerics.linear_probe import Rows
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.numerics.statistics.auroc import Codes
from lpp.analyze.runs.keys import RunView
from lpp.analyze.runs.rows.token_files import read_tokens
from lpp.store.errors import ErrorKind, FormatError, InputError

MOST_TOKENS: Final = 1000
"""Distinct tokens that the bag counts: those that most prompts hold."""

Which = int | Literal["last", "mean"]
"""The row of a prompt: at a position, the last one, or the mean."""


def which_row(text: str, context: int) -> Which:
    """The row that `--rows` names. context: of the run. Raises InputError for no such row."""
    if text == "last":
        return "last"
    if text == "mean":
        return "mean"
    if not (text.isascii() and text.isdigit()) or int(text) >= context:
        raise InputError(
            f"--rows {text}: it should be last, mean, or a position from 0 to {context - 1}.",
            kind=ErrorKind.INVALID_VALUE,
        )
    return int(text)


def site_rows(
    view: RunView, site: str, prompts: Codes, which: Which, skip_first: int
) -> npt.NDArray[np.float32]:
    """(n, d) the row of each of `prompts` at `site`. skip_first: tokens that a mean leaves out.

    Reads the site once, and holds these rows. Raises FormatError where a prompt lacks its row.
    """
    run = view.run
    width, count = run.site(site).width, int(prompts[-1]) + 1
    place = np.full(count, -1)
    place[prompts] = np.arange(len(prompts))
    last = view.lengths[:count] - 1
    rows = np.zeros((len(prompts), width), np.float64 if which == "mean" else np.float32)
    n_rows = np.zeros(len(prompts), np.int64)
    for block in run.blocks(site, prompts=count):
        to = place[block.prompt_id]
        if which == "mean":
            chosen = (to >= 0) & (block.position >= skip_first)
        else:
            at = last[block.prompt_id] if which == "last" else which
            chosen = (to >= 0) & (block.position == at)
        to, values = to[chosen], block.values[chosen]
        starts = np.flatnonzero(np.diff(to, prepend=-1))
        if len(starts):
            rows[to[starts]] += np.add.reduceat(values, starts, axis=0, dtype=rows.dtype)
        n_rows += np.bincount(to, minlength=len(prompts))
    if not n_rows.all():
        raise FormatError(
            f"{run.path}: {site} lacks rows of prompt {prompts[int(n_rows.argmin())]}. "
            f"`lpp-analyze verify {run.path.parent.parent}` says what was altered.",
            kind=ErrorKind.CORRUPT,
        )
    if which == "mean":
        rows /= n_rows[:, None]
    return rows.astype(np.float32)


def control_rows(view: RunView, prompts: Codes, which: Which) -> dict[str, Rows]:
    """What predicts labels without rows, by name: (n, columns) of each that varies.

    length: tokens of the prompt and their square; the last row's position is the same number.
    surprisal: mean -ln p of the tokens up to the row, if the run has statistics of logits. tokens:
    how often each of `MOST_TOKENS` tokens occurs up to the row.
    """
    lengths = view.lengths[prompts].astype(np.float64)
    ends = lengths if isinstance(which, str) else np.full(len(prompts), which + 1.0)
    controls: dict[str, Rows] = {"length": np.column_stack([lengths, lengths**2])}
    surprisal = _surprisal(view, prompts, ends)
    if np.isfinite(surprisal).all():
        controls["surprisal"] = surprisal[:, None]
    controls["tokens"] = _bag(view, prompts, ends)
    return {
        name: rows for name, rows in controls.items() if rows.size and np.ptp(rows, axis=0).any()
    }


def _surprisal(view: RunView, prompts: Codes, ends: Floats) -> Floats:
    """(n,) mean surprisal of the tokens after the first one, before position `ends`; of the second
    token where that is the only one; NaN without statistics.
    """
    limit = pl.DataFrame({"prompt_id": prompts.astype(np.int32), "end": np.maximum(ends, 2) - 1})
    parts = [
        read_tokens(file, ["prompt_id", "position", "next_logprob"])
        .join(limit, on="prompt_id")
        .filter(pl.col("position") < pl.col("end"))
        .group_by("prompt_id")
        .agg(-pl.col("next_logprob").mean().cast(pl.Float64))
        for file in view.run.tokens_files()
    ]
    found = limit.join(pl.concat(parts), on="prompt_id", how="left", maintain_order="left")
    values: Floats = found["next_logprob"].fill_null(float("nan")).to_numpy()
    return values


def _bag(view: RunView, prompts: Codes, ends: Floats) -> Floats:
    """(n, V) counts of the tokens that two prompts or more hold."""
    ids = view.run.prompts()["token_ids"].take(prompts)
    tokens = [ids[k].values.to_numpy()[: int(end)] for k, end in enumerate(ends)]
    owner = np.repeat(np.arange(len(tokens)), [len(part) for part in tokens])
    known, column = np.unique(np.concatenate(tokens), return_inverse=True)
    holders = np.bincount(np.unique([owner, column], axis=1)[1], minlength=len(known))
    common = np.argsort(-holders, kind="stable")[:MOST_TOKENS]
    common = common[holders[common] > 1]
    place = np.full(len(known), -1)
    place[common] = np.arange(len(common))
    counts = np.zeros((len(tokens), len(common)))
    kept = place[column] >= 0
    np.add.at(counts, (owner[kept], place[column[kept]]), 1)
    return counts
