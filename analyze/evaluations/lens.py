"""Features of items from the logit lens (`logits.lens`): of each block, and over all blocks.

Memory beside the lens: `STEP_ROWS` of two sites, and two rows of each item.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl

from lpp.analyze.evaluations.evaluated import EvaluatedItems
from lpp.analyze.evaluations.rows import AnswerRows, answer_rows
from lpp.analyze.logits.lens import (
    Lens,
    Reading,
    agreement_depth,
    is_block,
    last_block,
    norm_of,
    why_no_lens,
)
from lpp.analyze.numerics.moments import Floats
from lpp.analyze.numerics.statistics.auroc import Codes
from lpp.analyze.runs.rows.side_by_side import in_step
from lpp.store.shared.logits import Float32

NORM_ROWS: Final = 768
"""Tokens, drawn from the prompts, that the final norm is recovered from and checked on."""

OF_ITEMS: Final = ("agreement_depth", "answer_depth")
"""Features with one number per item."""

STEP_ROWS: Final = 4096
"""Rows read at a time from each of two sites."""


class ItemLens:
    """The lens of some items: features of one block after another, then of the items.

    Made with `lens_of`.
    """

    def __init__(self, items: EvaluatedItems, lens: Lens, final: AnswerRows) -> None:
        self._lens = lens
        self._plan = items.view.run.plan
        self._has_row = final.has_row
        self._answers = _answers(items.table.filter(final.has_row))
        self._of_final = lens.reading(final.rows, self._answers)
        self._read_blocks: dict[int, Reading] = {}

    def features(self, site: str, answers: AnswerRows) -> dict[str, Floats]:
        """lens_logprob and lens_share of `site`, (n,); NaN: no number.

        Empty for a site that is not a block; without lens_share if every item's answers begin
        alike.
        """
        if not is_block(site):
            return {}
        assert (answers.has_row == self._has_row).all(), (
            "sites of one run hold rows of the same tokens"
        )
        k = self._plan.depth_of(site)
        reading = self._of_final  # of the last block: equal to the norm's output but for rounding
        if k < self._plan.depth:
            rows, top = self._lens.norm.apply(answers.rows), self._of_final.likeliest
            reading = self._read_blocks[k] = self._lens.reading(rows, self._answers, top)
        features = {"lens_logprob": self._of_all(reading.logprob)}
        if (self._answers[:, 1:] >= 0).any():
            features["lens_share"] = self._of_all(reading.share)
        return features

    def of_items(self) -> dict[str, Floats]:
        """`OF_ITEMS` over the blocks whose features were requested, (n,); NaN: no number."""
        blocks = sorted(self._read_blocks)
        readings = [self._read_blocks[k] for k in blocks]
        none = np.empty((0, len(self._of_final.logprob)), bool)
        token = np.vstack([none, *(r.agrees for r in readings)])
        answer = np.vstack([none, *(r.chosen for r in readings)])
        of_answer = agreement_depth(answer, blocks, self._plan.depth)
        of_answer[~self._of_final.chosen] = np.nan
        per_feature = agreement_depth(token, blocks, self._plan.depth), of_answer
        return {name: self._of_all(d) for name, d in zip(OF_ITEMS, per_feature, strict=True)}

    def _of_all(self, values: Floats) -> Floats:
        """(n,) values from those of the (m,) items that have rows; NaN for the others."""
        padded = np.full(len(self._has_row), np.nan)
        padded[self._has_row] = values
        return padded


def _answers(table: pl.DataFrame) -> Codes:
    """(m, k) distinct first tokens of each item's answers, that of the chosen answer first.

    -1 fills rows with fewer. All are -1 for an item whose chosen answer is empty.
    """
    rows: list[list[int]] = []
    for tokens, chosen in table.select("first_tokens", "chosen").iter_rows():
        first = [token for token in (tokens[chosen], *tokens) if token is not None]
        rows.append([] if tokens[chosen] is None else list(dict.fromkeys(first)))
    codes = np.full((len(rows), max(1, *map(len, rows))), -1)
    for row, tokens in zip(codes, rows, strict=True):
        row[: len(tokens)] = tokens
    return codes


def lens_of(items: EvaluatedItems, sites: Sequence[str]) -> ItemLens | str:
    """The lens of the blocks among `sites`, or the reason why there is none, to follow a colon.

    Reads the last block and `final` once, and the head. FormatError for altered bytes.
    """
    run = items.view.run
    if why := next(why_no_lens(run, sites), None):
        return why
    before, after, final = _read_last(items, last_block(run))
    norm = norm_of(run, before, after)
    if isinstance(norm, str):
        return norm
    if not final.has_row.any():
        return "final has no row at an answer's position"
    return ItemLens(items, Lens(run, norm), final)


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
    final_rows: dict[int, Float32] = {}
    sources = [(run, last), (run, "final")]
    for step in in_step(sources, range(count), block_rows=STEP_ROWS):
        rows = step.rows
        sampled = drawn[seen : seen + len(rows[0])]
        pairs.append(np.stack([site[sampled] for site in rows]))
        seen += len(sampled)
        for k in np.flatnonzero(step.position == answer[step.prompt_id]).tolist():
            final_rows[int(step.prompt_id[k])] = rows[1][k].copy()
    before, after = np.concatenate(pairs, axis=1)
    return before, after, answer_rows(final_rows, ids, width)
