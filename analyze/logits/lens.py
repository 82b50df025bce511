"""The logit lens: what each block would predict if the model ended there, and when it settles.

The lens of block k takes a row of `block.k` through the final norm and the head, as the model takes
the row of its last block (nostalgebraist 2020). The store keeps the head, and rows before and after
the final norm, but not the weights of the norm. `final_norm` recovers these from some hundreds of
rows of the last block and of `final`. The lens is used only if the recovered norm then reproduces
other rows of `final` within the rounding of the stored numbers. The lens of the last block is
`final` itself.

Its known bias: early blocks write in a basis of their own, which the lens reads as that of the last
block. So a model may know its answer before the lens shows it (Belrose et al. 2023, the tuned
lens). Depths tend to be too large; compare them between items, not between models.

Cost: V d multiply-adds for a row, with torch or NumPy as `products` chooses, on as many threads as
it has. Memory: the head, and a tile of logits.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lpp.analyze.logits.divergences import GROUP
from lpp.analyze.logits.final_norm import FEWEST_ROWS, FinalNorm, best_norm, tolerance
from lpp.analyze.logits.heads import head_of
from lpp.analyze.logits.products import place_of, products
from lpp.analyze.logits.tiles import rows_of_tile
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.numerics.statistics.auroc import Codes, Flags
from lpp.store.objects.locate import objects_at
from lpp.store.runs.read import Run
from lpp.store.shared.heads import head_directories
from lpp.store.shared.logits import Float32, entropy_and_log_z


class Reading(NamedTuple):
    """The lens's results for m rows, (m,) each."""

    likeliest: Codes
    """The most likely token; of equally likely ones, that of the lowest id."""
    logprob: Floats
    """ln p of the token that is most likely at `final`."""
    agrees: Flags
    """Whether no token is more likely than the most likely one at `final`."""
    share: Floats
    """Share of the chosen answer's first token among the answers'; NaN if all begin alike."""
    chosen: Flags
    """Whether no answer's first token is more likely than the chosen answer's; False if all begin
    alike."""


class Lens:
    """The final norm and the head of a run."""

    def __init__(self, run: Run, norm: FinalNorm) -> None:
        head = head_of(run)
        self.norm = norm
        self._vocabulary = head.vocabulary
        self._products = products(head, place_of(head.dtype))

    def reading(self, rows: Float32, answers: Codes, top: Codes | None = None) -> Reading:
        """The reading of (m, d) rows after the norm.

        answers: (m, k) first tokens of answers, that of the chosen one first, filled up with -1.
        top: the most likely tokens at `final`, (m,); None: the rows are those of `final`.
        """
        size, group = rows_of_tile(self._vocabulary), max(1, GROUP // self._vocabulary)
        tile = self._products(size, group)
        parts, start = [], 0
        for first in range(0, len(rows), size):
            for logits in tile(rows[first : first + size]):
                part = slice(start, start + len(logits))
                parts.append(_reading(logits, None if top is None else top[part], answers[part]))
                start = part.stop
        return Reading(*map(np.concatenate, zip(*parts, strict=True)))


def _reading(logits: Float32, top: Codes | None, answers: Codes) -> Reading:
    """The reading of (m, V) logits; other arguments are those of `Lens.reading`."""
    each = np.arange(len(logits))
    likeliest = logits.argmax(axis=1)
    top = likeliest if top is None else top
    value = logits[each, top].astype(np.float64)
    of_answers = logits[each[:, None], np.maximum(answers, 0)].astype(np.float64)
    of_answers[answers < 0] = -np.inf
    several = (answers >= 0).sum(axis=1) > 1
    highest = of_answers.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):  # -inf of every answer
        weights = np.exp(of_answers - highest)
        share = np.where(several, weights[:, 0] / weights.sum(axis=1), np.nan)
    return Reading(
        likeliest=likeliest,
        logprob=value - entropy_and_log_z(logits)[1],
        agrees=value >= logits[each, likeliest],
        share=share,
        chosen=several & (of_answers[:, 0] >= highest[:, 0]),
    )


def agreement_depth(agrees: Flags, blocks: Sequence[int], n_blocks: int, /) -> Floats:
    """(n,) depth k / L of the first of `blocks` from which on the lens agrees with `final` at every
    block.

    agrees: (m, n), whether the lens agrees at each of the blocks. blocks: m numbers k < L,
    ascending. n_blocks: L. The value is 1, the depth of `final`, if no block agrees.

    >>> agreement_depth(np.array([[True, True], [False, True]]), [1, 2], 4).tolist()
    [1.0, 0.25]
    """
    depths = np.ones(agrees.shape[1])
    settled = np.ones(agrees.shape[1], dtype=bool)
    for k, flags in zip(reversed(blocks), agrees[::-1], strict=True):
        settled &= flags
        depths[settled] = k / n_blocks
    return depths


def is_block(site: str) -> bool:
    """Whether `site` is a block's output, not `embed` or `final`."""
    return site.startswith("block.")


def why_no_lens(run: Run, sites: Sequence[str]) -> Iterator[str]:
    """Reasons why `run` has no lens of the blocks among `sites`, to follow a colon."""
    last = last_block(run)
    if last not in run.sites or "final" not in run.sites:
        yield f"the run lacks {last} or final, so no final norm is known; evaluate again with both"
    if not any(map(is_block, sites)):
        yield "no block is among --sites"
    if not head_directories(objects_at(run.directory.root), run.plan):
        yield "the store lacks the head of its model; evaluate again with --keep-head yes"
    if lossy := [site for site in (last, "final") if run.plan.is_lossy(site)]:
        yield (
            f"rows of {' and '.join(lossy)} are rounded to float8_e4m3, which does not tell the "
            "final norm; capture again with --stored-dtype auto"
        )
    block, final = run.site(last), run.site("final")
    if final.convention != "post_norm":
        yield "the model has no norm before its head: its blocks end with norms of their own"
    if block.width != final.width:
        yield f"{last} has {block.width} columns and final {final.width}: no norm does that"


def last_block(run: Run) -> str:
    """The site before the final norm."""
    return f"block.{run.plan.model.n_blocks}"


def norm_of(run: Run, before: Float32, after: Float32) -> FinalNorm | str:
    """The final norm from (n, d) rows of the last block and of `final`, or why there is none."""
    if len(before) < FEWEST_ROWS:
        return f"{len(before)} tokens do not tell the final norm"
    norm = best_norm(before, after)
    most = tolerance(run.plan.compute.dtype, run.plan.stored_dtype)
    if norm.error <= most:
        return norm
    return (
        f"final is no RMSNorm and no LayerNorm of {last_block(run)}: the better one, a "
        f"{norm.kind}, is off by {norm.error:.2g} of a row, rounding by {most:.2g} at most"
    )
