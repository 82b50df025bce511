"""The logit lens: what each block would predict if the model ended there, and when it settles.

The lens of block k takes a row of `block.k` through the final norm and the head, as the model takes
the row of its last block (nostalgebraist 2020). The store keeps the head, and rows before and after
the final norm, but not the weights of the norm. `numerics.final_norm` recovers these from some
hundreds of rows of the last block and of `final`. The lens is used only if the recovered norm then
reproduces other rows of `final` within the rounding of the stored numbers. The lens of the last
block is `final` itself.

Its known bias: early blocks write in a basis of their own, which the lens reads as that of the last
block. So a model may know its answer before the lens shows it (Belrose et al. 2023, the tuned
lens). Depths tend to be too large; compare them between items, not between models.

Cost: V d multiply-adds for an item and a block, with torch or NumPy as `drift.products` chooses, on
as many threads as it has. Memory: the head, a tile of logits (`rows_of_tile`), `STEP_ROWS` of two
sites, and two rows of each item.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import polars as pl

from lpp.analyze.drift.logits import head_of
from lpp.analyze.drift.products import place_of, products
from lpp.analyze.drift.tiles import rows_of_tile
from lpp.analyze.evaluations.evaluated import EvaluatedItems
from lpp.analyze.evaluations.rows import AnswerRows, answer_rows
from lpp.analyze.numerics.auroc import Codes, Flags
from lpp.analyze.numerics.final_norm import FEWEST_ROWS, FinalNorm, best_norm, tolerance
from lpp.analyze.numerics.logit_drift import GROUP
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.runs.keys import depth
from lpp.analyze.runs.side_by_side import in_step
from lpp.store.objects.locate import objects_at
from lpp.store.read import Run
from lpp.store.shared.heads import head_directories
from lpp.store.shared.logits import Float32, entropy_and_log_z

NORM_ROWS: Final = 768
"""Tokens, drawn from the prompts, that the final norm is recovered from and checked on."""

OF_ITEMS: Final = ("agreement_depth", "answer_depth")
"""Features with one number per item."""

STEP_ROWS: Final = 4096
"""Rows read at a time from each of two sites."""


class Lens:
    """The lens of some items: features of one block after another, then of the items.

    Made with `lens_of`.
    """

    def __init__(self, items: EvaluatedItems, norm: FinalNorm, final: AnswerRows) -> None:
        run = items.view.run
        self.norm = norm
        self._n_blocks = run.plan.model.n_blocks
        self._head = head_of(run)
        self._products = products(self._head, place_of(self._head.dtype))
        self._there = final.there
        self._answers = _answers(items.table.filter(final.there))
        self._top: Codes | None = None
        self._of_final = self._read(final.rows)
        self._top = self._of_final.likeliest
        self._read_blocks: dict[int, _Reading] = {}

    def features(self, site: str, answers: AnswerRows) -> dict[str, Floats]:
        """lens_logprob and lens_share of `site`, (n,); NaN: no number.

        Empty for a site that is not a block; without lens_share if every item's answers begin
        alike.
        """
        if not is_block(site):
            return {}
        assert (answers.there == self._there).all(), "sites of one run hold rows of the same tokens"
        k = depth(site, self._n_blocks)
        reading = self._of_final  # of the last block: equal to the norm's output but for rounding
        if k < self._n_blocks:
            reading = self._read_blocks[k] = self._read(self.norm.apply(answers.rows))
        found = {"lens_logprob": self._of_all(reading.logprob)}
        if (self._answers[:, 1:] >= 0).any():
            found["lens_share"] = self._of_all(reading.share)
        return found

    def of_items(self) -> dict[str, Floats]:
        """`OF_ITEMS` over the blocks whose features were requested, (n,); NaN: no number."""
        blocks = sorted(self._read_blocks)
        readings = [self._read_blocks[k] for k in blocks]
        none = np.empty((0, len(self._of_final.logprob)), bool)
        token = np.vstack([none, *(one.agrees for one in readings)])
        answer = np.vstack([none, *(one.chosen for one in readings)])
        of_answer = agreement_depth(answer, blocks, self._n_blocks)
        of_answer[~self._of_final.chosen] = np.nan
        found = agreement_depth(token, blocks, self._n_blocks), of_answer
        return {name: self._of_all(one) for name, one in zip(OF_ITEMS, found, strict=True)}

    def _of_all(self, values: Floats) -> Floats:
        """(n,) values from those of the (m,) items that have rows; NaN for the others."""
        found = np.full(len(self._there), np.nan)
        found[self._there] = values
        return found

    def _read(self, rows: Float32) -> "_Reading":
        """The reading of (m, d) rows after the norm."""
        m, vocabulary = len(rows), self._head.vocabulary
        size, group = rows_of_tile(vocabulary), max(1, GROUP // vocabulary)
        tile = self._products.tile(size, group)
        parts, start = [], 0
        for first in range(0, m, size):
            for logits in tile.logits(rows[first : first + size]):
                some = slice(start, start + len(logits))
                top = None if self._top is None else self._top[some]
                parts.append(_reading(logits, top, self._answers[some]))
                start = some.stop
        return _Reading(*map(np.concatenate, zip(*parts, strict=True)))


class _Reading(NamedTuple):
    """The lens's results for m items, (m,) each."""

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


def _reading(logits: Float32, top: Codes | None, answers: Codes) -> _Reading:
    """The reading of (m, V) logits.

    top: the most likely tokens at `final`, (m,); None: these logits are those of `final`. answers:
    (m, k) of `_answers`.
    """
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
    return _Reading(
        likeliest=likeliest,
        logprob=value - entropy_and_log_z(logits)[1],
        agrees=value >= logits[each, likeliest],
        share=share,
        chosen=several & (of_answers[:, 0] >= highest[:, 0]),
    )


def _answers(table: pl.DataFrame) -> Codes:
    """(m, k) distinct first tokens of each item's answers, that of the chosen answer first.

    -1 fills rows with fewer. All are -1 for an item whose chosen answer is empty.
    """
    rows: list[list[int]] = []
    for tokens, chosen in table.select("first_tokens", "chosen").iter_rows():
        first = [one for one in (tokens[chosen], *tokens) if one is not None]
        rows.append([] if tokens[chosen] is None else list(dict.fromkeys(first)))
    found = np.full((len(rows), max(1, *map(len, rows))), -1)
    for row, tokens in zip(found, rows, strict=True):
        row[: len(tokens)] = tokens
    return found


def lens_of(items: EvaluatedItems, sites: Sequence[str]) -> Lens | str:
    """The lens of the blocks among `sites`, or the reason why there is none, to follow a colon.

    Reads the last block and `final` once, and the head. FormatError for altered bytes.
    """
    run = items.view.run
    n_blocks = run.plan.model.n_blocks
    if why := next(_reasons(run, sites, f"block.{n_blocks}"), None):
        return why
    before, after, final = _read_last(items, f"block.{n_blocks}")
    if len(before) < FEWEST_ROWS:
        return f"{len(before)} tokens do not tell the final norm"
    norm = best_norm(before, after)
    most = tolerance(run.plan.compute.dtype, run.plan.stored_dtype)
    if not norm.error <= most:
        return (
            f"final is no RMSNorm and no LayerNorm of block.{n_blocks}: the better one, a "
            f"{norm.kind}, is off by {norm.error:.2g} of a row, rounding by {most:.2g} at most"
        )
    if not final.there.any():
        return "final has no row at an answer's position"
    return Lens(items, norm, final)


def agreement_depth(agrees: Flags, blocks: Sequence[int], n_blocks: int, /) -> Floats:
    """(n,) depth k / L of the first of `blocks` from which on the lens agrees with `final` at every
    block.

    agrees: (m, n), whether the lens agrees at each of the blocks. blocks: m numbers k < L,
    ascending. n_blocks: L. The value is 1, the depth of `final`, if no block agrees.

    >>> agreement_depth(np.array([[True, True], [False, True]]), [1, 2], 4).tolist()
    [1.0, 0.25]
    """
    found = np.ones(agrees.shape[1])
    settled = np.ones(agrees.shape[1], dtype=bool)
    for k, flags in zip(reversed(blocks), agrees[::-1], strict=True):
        settled &= flags
        found[settled] = k / n_blocks
    return found


def is_block(site: str) -> bool:
    """Whether `site` is a block's output, not `embed` or `final`."""
    return site.startswith("block.")


def _reasons(run: Run, sites: Sequence[str], last: str) -> Iterator[str]:
    """Reasons why there is no lens; the first one is given."""
    if not run.plan.keeps_rows:
        yield "the run keeps no rows; evaluate again with --keep rows"
    if last not in run.sites or "final" not in run.sites:
        yield f"the run lacks {last} or final, which tell the final norm; evaluate again with both"
    if not any(map(is_block, sites)):
        yield "no block is among --sites"
    if not head_directories(objects_at(run.directory.root), run.plan):
        yield "the store lacks the head of its model; evaluate again with --keep-head yes"
    block, final = run.site(last), run.site("final")
    if final.convention != "post_norm":
        yield "the model has no norm before its head: its blocks end with norms of their own"
    if block.width != final.width:
        yield f"{last} has {block.width} columns and final {final.width}: no norm does that"


def _read_last(items: EvaluatedItems, last: str) -> tuple[Float32, Float32, AnswerRows]:
    """Rows of the last block and of `final` for the same drawn tokens, (m, d) each, and the rows of
    `final` at the answers' positions.
    """
    ids, at = (items.table[name].to_numpy() for name in ("prompt_id", "answer"))
    count = int(ids.max(initial=-1)) + 1
    answer = np.full(count, -1)
    answer[ids] = at
    tokens = int(items.view.lengths[:count].sum())
    drawn = np.zeros(tokens, bool)  # at random: every k-th token may be the first of each prompt
    drawn[np.random.default_rng(0).choice(tokens, min(NORM_ROWS, tokens), replace=False)] = True
    run, seen = items.view.run, 0
    width = run.site("final").width
    pairs = [np.empty((2, 0, width), np.float32)]
    found: dict[int, Float32] = {}
    sources = [(run, last), (run, "final")]
    for step in in_step(sources, range(count), block_rows=STEP_ROWS):
        rows = step.rows
        some = drawn[seen : seen + len(rows[0])]
        pairs.append(np.stack([site[some] for site in rows]))
        seen += len(some)
        for place in np.flatnonzero(step.position == answer[step.prompt_id]).tolist():
            found[int(step.prompt_id[place])] = rows[1][place].copy()
    before, after = np.concatenate(pairs, axis=1)
    return before, after, answer_rows(found, ids, width)
