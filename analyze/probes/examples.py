"""What has a label: a prompt, a token, or an item of an evaluation, which is right or wrong."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import pyarrow as pa

from lpp.analyze.evaluations.evaluated import evaluated_items
from lpp.analyze.numerics.statistics.auroc import Codes, Flags
from lpp.analyze.numerics.statistics.clusters import recoded
from lpp.analyze.questions import ItemsSettings, LabelProbeSettings
from lpp.analyze.runs.keys import RunView
from lpp.analyze.runs.prompt_clusters import prompt_values
from lpp.analyze.runs.select import nearest
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.prompt_columns import TOKEN_PREFIX, token_columns
from lpp.store.runs.read import Run, by_token

EACH: Final = "each"
"""`--rows` of every token."""

MOST: Final = 10_000
"""Tokens that are probed at most; of more, so many are drawn."""

RIGHT: Final = "right"
"""The label of an item of `--task`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """What has a label and a row, in the order of the run."""

    of: Literal["prompts", "tokens", "items"]
    prompts: Codes
    """(n,) id of the prompt of each, ascending; those of tokens repeat."""
    ends: Codes
    """(n,) tokens of the prompt that count. The last row is that of the last of them, a mean is
    over them, and controls know no other."""
    values: list[object]
    """(n,) labels."""
    clusters: Codes | None
    """(n,) what is not independent, if no field is named; None: all are."""
    clustered_by: str
    """What makes `clusters`; empty: nothing."""
    left_out: dict[str, int]
    """Numbers of those without a label or a row, by reason."""

    def only(self, kept: Flags, why: str) -> "Examples":
        """Those that are kept. why: the reason of the others."""
        if kept.all():
            return self
        return replace(
            self,
            prompts=self.prompts[kept],
            ends=self.ends[kept],
            values=[value for value, stays in zip(self.values, kept, strict=True) if stays],
            clusters=None if self.clusters is None else recoded(self.clusters[kept]),
            left_out=self.left_out | {why: int((~kept).sum())},
        )


def token_rows(run: Run, rows: str) -> bool:
    """Whether `--rows` names tokens: each, or a field of tokens."""
    return rows == EACH or f"{TOKEN_PREFIX}{rows}" in token_columns(run.extra_columns)


def examples_of(
    view: RunView, field: str, first_token: int, settings: LabelProbeSettings
) -> Examples:
    """What has a value of `field`, missing values included, and more than `first_token` tokens.

    field: of prompts; `token.NAME`, whose value is that of the row's token; or `RIGHT` with a task.
    Raises InputError for a field that there is not, and for what the rows do not have.
    """
    if settings.task is not None:
        return _items(view, field, first_token, settings)
    run, lengths = view.run, view.lengths.astype(np.int64)
    label, by_position = _label(run, field, settings.rows), settings.rows.isdigit()
    aside = {"set aside, or a branch": int((lengths == 0).sum())} if (lengths == 0).any() else {}
    prompts = np.flatnonzero(lengths)
    if token_rows(run, settings.rows):
        return _tokens(view, prompts, label, aside, settings)
    ends = lengths[prompts]
    short = ends <= first_token
    examples = Examples(
        of="prompts",
        prompts=prompts,
        ends=ends,
        values=label(prompts, np.minimum(ends, first_token + 1) if by_position else ends),
        clusters=None,
        clustered_by="",
        left_out=aside,
    )
    labelled = there(examples.values)
    return examples.only(labelled, "no label").only(~short[labelled], "too short for the row")


def there(values: list[object]) -> Flags:
    """(n,) which values are neither None nor NaN."""
    lost = [value is None or (isinstance(value, float) and math.isnan(value)) for value in values]
    return ~np.array(lost, dtype=bool)


def _tokens(
    view: RunView,
    prompts: Codes,
    label: Callable[[Codes, Codes], list[object]],
    aside: dict[str, int],
    settings: LabelProbeSettings,
) -> Examples:
    """Tokens of `prompts`, at most `MOST`: each, or those for which the field of `--rows` holds."""
    run, lengths = view.run, view.lengths
    sizes = lengths[prompts].astype(np.int64)
    owner = np.repeat(prompts, sizes)
    ends = np.arange(1, len(owner) + 1) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    if settings.rows != EACH:
        holds = _by_token(run, f"{TOKEN_PREFIX}{settings.rows}")
        if holds.type != pa.bool_():
            raise InputError(
                f"--rows {settings.rows}: its values are numbers, and a mask has true and false. "
                "Name another field of tokens, or each."
            )
        mask = holds.fill_null(False).to_numpy(zero_copy_only=False)
        kept = mask[run.row_edges[owner] + ends - 1]
        owner, ends = owner[kept], ends[kept]
    left_out = dict(aside)
    if len(owner) > MOST:
        left_out["tokens that were not drawn"] = len(owner) - MOST
        rng = np.random.default_rng(settings.seed)
        drawn = np.sort(rng.choice(len(owner), MOST, replace=False))
        owner, ends = owner[drawn], ends[drawn]
    examples = Examples(
        of="tokens",
        prompts=owner,
        ends=ends,
        values=label(owner, ends),
        clusters=recoded(owner),
        clustered_by="prompt",
        left_out=left_out,
    )
    return examples.only(there(examples.values), "no label")


def _items(view: RunView, field: str, first_token: int, settings: LabelProbeSettings) -> Examples:
    """The items of the task, each with the tokens before its answer."""
    task = f"--task {settings.task}"
    if field != RIGHT:
        raise InputError(
            f"--label {field} {task}: what items of a task have is --label {RIGHT}. Leave --task "
            "out for a field of prompts."
        )
    if token_rows(view.run, settings.rows):
        raise InputError(
            f"--rows {settings.rows} {task}: an item has one row. Name last, the row before its "
            "answer; mean; or a position."
        )
    of = ItemsSettings(source=settings.source, filter=settings.filter, cluster=settings.cluster)
    items = evaluated_items(view.run.directory.root, settings.task or "", view.run.id, of)
    order = np.argsort(items.table["prompt_id"].to_numpy(), kind="stable")
    table, clusters = items.table[order], items.clusters
    prompts = table["prompt_id"].to_numpy().astype(np.int64)
    examples = Examples(
        of="items",
        prompts=prompts,
        ends=table["answer"].to_numpy().astype(np.int64) + 1,
        values=table["right"].to_list(),
        clusters=None if clusters is None else recoded(clusters[order]),
        clustered_by=items.settings.cluster or "",
        left_out=dict(items.left_out),
    )
    first = np.diff(prompts, prepend=-1) > 0
    examples = examples.only(first, "another item has the same prompt")
    return examples.only(examples.ends > first_token, "too short for the row")


def _label(run: Run, field: str, rows: str) -> Callable[[Codes, Codes], list[object]]:
    """(prompts, ends) -> their labels. Of a token: that before `ends`."""
    if not field.startswith(TOKEN_PREFIX):
        values = prompt_values(run, field, option="--label")
        return lambda prompts, _: [values[k] for k in prompts.tolist()]
    columns = token_columns(run.extra_columns)
    if field not in columns:
        raise InputError(
            f"--label {field}: the prompts of run {run.id} have no such field of tokens; "
            f"{nearest(field, columns)} Capture again with --token-fields.",
            kind=ErrorKind.NOT_FOUND,
        )
    if rows == "mean":
        raise InputError(
            f"--label {field} --rows mean: a label of a token is predicted from its own row. Add "
            f"--rows {EACH}, last, a position, or a field of tokens such as loss_mask."
        )
    flat = _by_token(run, field)
    return lambda prompts, ends: flat.take(pa.array(run.row_edges[prompts] + ends - 1)).to_pylist()


def _by_token(run: Run, column: str) -> pa.Array:
    """The values of all tokens of a run, end to end."""
    return by_token(run.prompts(column)[column].combine_chunks(), run.lengths)
