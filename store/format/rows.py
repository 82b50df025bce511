"""What the rows of a run must say, SPEC.md section 5: prompts fit the plan, tokens the prompts.

The writer asks before it writes, `verify` when it reads, so that neither trusts the other.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.store.format.plan import Plan
from lpp.store.format.prompt_columns import (
    BRANCH_COLUMNS,
    CONTINUATION_COLUMNS,
    column_problems,
    token_columns,
)
from lpp.store.format.tables import PROMPTS_SCHEMA, TOKENS_SCHEMA


def token_ids_sha256(token_ids: npt.NDArray[np.integer]) -> str:
    """Column `sha256` of a prompt: SHA-256 of its ids as little-endian int32, in hex."""
    return hashlib.sha256(token_ids.astype("<i4", copy=False).tobytes()).hexdigest()


def prompts_table(
    source_rows: Sequence[int], ids: Sequence[Any], truncated: Sequence[bool]
) -> pa.Table:
    """(n, 6), `PROMPTS_SCHEMA`, of prompts in order: the row of the corpus, token ids, and whether
    ids were dropped, of each.
    """
    columns = [
        range(len(ids)),
        source_rows,
        ids,
        [len(tokens) for tokens in ids],
        truncated,
        [token_ids_sha256(np.asarray(tokens)) for tokens in ids],
    ]
    arrays = [pa.array(c, field.type) for c, field in zip(columns, PROMPTS_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=PROMPTS_SCHEMA)


def prompts_sha256(prompts: pa.Table) -> str:
    """Field `prompts.sha256` of a plan: SHA-256 over the prompts' digests (32 bytes each)."""
    digests = (bytes.fromhex(text) for text in prompts["sha256"].to_pylist())
    return hashlib.sha256(b"".join(digests)).hexdigest()


def ranges(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """start, start + 1, ... of each range, end to end: (sum of lengths,).

    >>> ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    before = np.cumsum(lengths) - lengths
    values: npt.NDArray[np.int64] = np.arange(lengths.sum()) + np.repeat(starts - before, lengths)
    return values


def positions(lengths: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Position of each token in its prompt, prompts end to end. lengths: tokens of each prompt."""
    return ranges(np.zeros(len(lengths), np.int64), lengths.astype(np.int64))


def branches_of(prompts: pa.Table) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """For each prompt, (count,): the prompt that it branches off, -1 for none; and how many of that
    one's tokens come before it, 0 for none. prompts: with or without `BRANCH_COLUMNS`.
    """
    if not {*BRANCH_COLUMNS} <= {*prompts.schema.names}:
        return np.full(prompts.num_rows, -1, np.int32), np.zeros(prompts.num_rows, np.int32)
    of, at = (
        prompts[name].combine_chunks().fill_null(empty).to_numpy()
        for name, empty in zip(BRANCH_COLUMNS, (-1, 0), strict=True)
    )
    return of, at


def branches_sha256(prompts: pa.Table) -> str | None:
    """Field `prompts.branches` of a plan: SHA-256 of both columns of each prompt as little-endian
    int32, -1 and 0 for one that is no branch; None where none is.
    """
    of, at = branches_of(prompts)
    if (of < 0).all():
        return None
    return hashlib.sha256(np.stack([of, at], axis=1).astype("<i4").tobytes()).hexdigest()


def prompts_problems(prompts: pa.Table, plan: Plan) -> list[str]:
    """Every reason `prompts` are not those of `plan`: (count, 6), then more columns of
    `lpp.store.format.prompt_columns`.
    """
    columns = list(prompts.schema)
    if not pa.schema(columns[: len(PROMPTS_SCHEMA)]).equals(PROMPTS_SCHEMA):
        return [f"columns are {prompts.schema.names}"]
    if problems := column_problems(pa.schema(columns[len(PROMPTS_SCHEMA) :])):
        return problems
    if prompts.num_rows != plan.prompts.count:
        return [f"{prompts.num_rows} prompts, the plan has {plan.prompts.count}"]
    problems = []
    if not np.array_equal(prompts["prompt_id"].to_numpy(), np.arange(prompts.num_rows)):
        problems.append("prompt_id should count from 0")
    ids, lengths = _token_ids(prompts)
    if not np.array_equal(prompts["n_tokens"].to_numpy(), lengths):
        problems.append("n_tokens should be the length of token_ids")
    if len(lengths) and not 1 <= lengths.min() <= lengths.max() <= plan.context:
        problems.append(f"prompts should have 1 to {plan.context} tokens")
    if len(ids) != plan.prompts.tokens:
        problems.append(f"{len(ids)} tokens, the plan has {plan.prompts.tokens}")
    digests = [token_ids_sha256(part) for part in np.split(ids, np.cumsum(lengths)[:-1])]
    if digests[: prompts.num_rows] != prompts["sha256"].to_pylist():
        problems.append("sha256 should be that of token_ids")
    elif prompts_sha256(prompts) != plan.prompts.sha256:
        problems.append(f"digest {prompts_sha256(prompts)[:8]}, not {plan.prompts.sha256[:8]}")
    problems += _continuation_problems(prompts, plan, lengths)
    if (there := token_columns(prompts.schema)) != plan.prompts.token_columns:
        problems.append(f"columns by token are {there}, the plan has {plan.prompts.token_columns}")
    problems += _token_column_problems(prompts, lengths)
    return problems + _branch_problems(prompts, plan, lengths)


def column_values_problems(prompts: pa.Table, plan: Plan) -> list[str]:
    """Every reason the columns of continuations and branches, where `prompts` has both of a kind,
    are not those of `plan`, and every column by token that does not fit. A reader asks before it
    counts positions with them.
    """
    there, problems = {*prompts.schema.names}, list[str]()
    lengths = prompts["n_tokens"].to_numpy().astype(np.int64)
    if {*CONTINUATION_COLUMNS} <= there:
        problems += _continuation_problems(prompts, plan, lengths)
    if {*BRANCH_COLUMNS} <= there:
        problems += _branch_problems(prompts, plan, lengths)
    return problems + _token_column_problems(prompts, lengths)


def _token_column_problems(prompts: pa.Table, lengths: npt.NDArray[np.int64]) -> list[str]:
    """Every column by token that has not one value, never null, for each token of a prompt."""
    problems = []
    for name in token_columns(prompts.schema):
        lists = prompts[name].combine_chunks()
        values = lists.value_lengths().fill_null(-1).to_numpy()
        if not ((values == lengths) | (values < 0)).all():
            problems.append(f"{name} should have a value for each token, or be null")
        if lists.flatten().null_count:
            problems.append(f"{name} should not have null for a token")
    return problems


def _continuation_problems(
    prompts: pa.Table, plan: Plan, lengths: npt.NDArray[np.int64]
) -> list[str]:
    """Every reason the columns of a continuation are not those of `plan`, or are there without."""
    written, there = plan.continuation, {*CONTINUATION_COLUMNS} & {*prompts.schema.names}
    if written is None:
        return [f"column {name}, and the plan has no continuation" for name in sorted(there)]
    if len(there) < len(CONTINUATION_COLUMNS):
        return [f"the plan has a continuation, so {' and '.join(CONTINUATION_COLUMNS)} should be"]
    columns = [prompts[name].combine_chunks() for name in CONTINUATION_COLUMNS]
    if any(column.null_count for column in columns):
        return [f"{' and '.join(CONTINUATION_COLUMNS)} should not be null"]
    given = columns[0].to_numpy().astype(np.int64)
    logprobs = columns[1].value_lengths().to_numpy(zero_copy_only=False)
    most, problems = written.given_context, []
    if not ((given >= 1) & (given <= most)).all():
        problems.append(f"n_given should be 1 to {most}")
    if not ((lengths - given >= 1) & (lengths - given <= written.tokens)).all():
        problems.append(f"1 to {written.tokens} tokens should follow those given")
    if not np.array_equal(lengths - given, logprobs):
        problems.append("written_logprob should have a value for each token written")
    return problems


def _branch_problems(prompts: pa.Table, plan: Plan, lengths: npt.NDArray[np.int64]) -> list[str]:
    """Every reason the columns of branches are not those of `plan`, or are there without."""
    there = {*BRANCH_COLUMNS} & {*prompts.schema.names}
    if plan.prompts.branches is None:
        return [f"column {name}, and the plan has no branches" for name in sorted(there)]
    if len(there) < len(BRANCH_COLUMNS):
        return [f"the plan has branches, so {' and '.join(BRANCH_COLUMNS)} should be"]
    if branches_sha256(prompts) != plan.prompts.branches:
        return ["branch_of and branch_at should be those of the plan"]
    (of, at), number = branches_of(prompts), np.arange(len(lengths))
    missing = [prompts[name].combine_chunks().is_null() for name in BRANCH_COLUMNS]
    if not missing[0].equals(missing[1]):
        return ["branch_of and branch_at should both be null, or neither"]
    branch = of >= 0
    root = np.where(branch, of, 0)
    if (root >= number)[branch].any() or (of[root] >= 0)[branch].any():
        return ["branch_of should be an earlier prompt that is no branch itself"]
    problems = []
    if not ((at >= 1) & (at <= lengths[root]))[branch].all():
        problems.append("branch_at should be 1 to the length of the prompt that it is of")
    if (at + lengths > plan.context)[branch].any():
        problems.append(f"a branch and what comes before it should have {plan.context} tokens")
    return problems


def tokens_problems(tokens: pa.Table, prompts: pa.Table, first: int, end: int) -> list[str]:
    """Every reason `tokens` (T, 11) are not those of prompts `first <= id < end`, in order."""
    if not tokens.schema.equals(TOKENS_SCHEMA):
        return [f"columns are {tokens.schema.names}"]
    ids, lengths = _token_ids(prompts.slice(first, end - first))
    if tokens.num_rows != len(ids):
        return [f"{tokens.num_rows} rows, prompts {first} to {end - 1} have {len(ids)} tokens"]
    expected: dict[str, npt.NDArray[np.integer]] = {
        "prompt_id": np.repeat(np.arange(first, end), lengths),
        "position": positions(lengths),
        "token_id": ids,
    }
    return [
        f"{name} should be that of prompts {first} to {end - 1}, in order"
        for name, values in expected.items()
        if not np.array_equal(tokens[name].to_numpy(), values)
    ]


def _token_ids(prompts: pa.Table) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """All token ids end to end, (sum of lengths,), and the length of each prompt, (count,)."""
    lists = prompts["token_ids"].combine_chunks()
    ids = lists.flatten().to_numpy(zero_copy_only=False)
    return ids, lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
