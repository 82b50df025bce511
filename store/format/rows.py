"""What the rows of a run must say, SPEC.md section 5: prompts fit the plan, tokens the prompts.

The writer asks before it writes, `verify` when it reads, so that neither trusts the other.
"""

import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.store.format.plan import Plan
from lpp.store.format.prompt_columns import CONTINUATION_COLUMNS, column_problems
from lpp.store.format.tables import PROMPTS_SCHEMA, TOKENS_SCHEMA


def token_ids_sha256(token_ids: npt.NDArray[np.integer]) -> str:
    """Column `sha256` of a prompt: SHA-256 of its ids as little-endian int32, in hex."""
    return hashlib.sha256(token_ids.astype("<i4").tobytes()).hexdigest()


def prompts_sha256(prompts: pa.Table) -> str:
    """Field `prompts.sha256` of a plan: SHA-256 over the prompts' digests (32 bytes each)."""
    digests = (bytes.fromhex(text) for text in prompts["sha256"].to_pylist())
    return hashlib.sha256(b"".join(digests)).hexdigest()


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
    found = [token_ids_sha256(part) for part in np.split(ids, np.cumsum(lengths)[:-1])]
    if found[: prompts.num_rows] != prompts["sha256"].to_pylist():
        problems.append("sha256 should be that of token_ids")
    elif prompts_sha256(prompts) != plan.prompts.sha256:
        problems.append(f"digest {prompts_sha256(prompts)[:8]}, not {plan.prompts.sha256[:8]}")
    return problems + _continuation_problems(prompts, plan, lengths)


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


def tokens_problems(tokens: pa.Table, prompts: pa.Table, first: int, end: int) -> list[str]:
    """Every reason `tokens` (T, 11) are not those of prompts `first <= id < end`, in order."""
    if not tokens.schema.equals(TOKENS_SCHEMA):
        return [f"columns are {tokens.schema.names}"]
    ids, lengths = _token_ids(prompts.slice(first, end - first))
    if tokens.num_rows != len(ids):
        return [f"{tokens.num_rows} rows, prompts {first} to {end - 1} have {len(ids)} tokens"]
    starts = np.cumsum(lengths) - lengths
    expected: dict[str, npt.NDArray[np.integer]] = {
        "prompt_id": np.repeat(np.arange(first, end), lengths),
        "position": np.arange(len(ids)) - np.repeat(starts, lengths),
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
