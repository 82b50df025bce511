"""Compare every byte of a run with what was committed, SPEC.md section 7.

Never raises for what lies in the store: each difference is a `Problem` with its place.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from lpp.store.commit import CommitRecord, read_commit
from lpp.store.documents import load_json
from lpp.store.errors import FormatError
from lpp.store.files import describe
from lpp.store.hidden import site_shape
from lpp.store.keys import (
    COMMIT_KEY,
    HIDDEN_KEY,
    PLAN_KEY,
    PROMPTS_KEY,
    SHARDS_KEY,
    TOKENS_KEY,
    shard_key,
)
from lpp.store.plan import Plan, parse_plan
from lpp.store.tables import PROMPTS_SCHEMA, TOKENS_SCHEMA, read_table


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One difference between the store and what was committed."""

    where: str
    """Path relative to the run's directory."""
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def verify_run(path: Path) -> list[Problem]:
    """Every problem of the run in `path`; empty when each byte is as it was committed."""
    commit, problems = _read_commit(path, "")
    if commit is None:
        return problems
    problems += _check_objects(path, "", commit, ignore=(SHARDS_KEY,))
    try:
        plan = parse_plan(load_json((path / PLAN_KEY).read_bytes(), PLAN_KEY), PLAN_KEY)
    except (FormatError, OSError) as error:
        return [*problems, Problem(where=PLAN_KEY, what=f"not readable ({error})")]
    if plan.run_id != path.name or plan.hash != commit.plan:
        problems.append(Problem(where=PLAN_KEY, what=f"belongs to run {plan.run_id}"))
    lengths = _prompt_lengths(path, plan, problems)
    for index in range(plan.n_shards):
        problems += _verify_shard(path, plan, index, lengths)
    problems += _strangers(path / SHARDS_KEY, plan)
    return problems


def _read_commit(path: Path, prefix: str) -> tuple[CommitRecord | None, list[Problem]]:
    try:
        return read_commit(path), []
    except FileNotFoundError:
        what = "not committed (capture has not come to it, or was stopped before)"
    except FormatError as error:
        what = str(error)
    except OSError as error:
        what = f"not readable ({error.strerror})"
    return None, [Problem(where=f"{prefix}{COMMIT_KEY}", what=what)]


def _check_objects(
    path: Path, prefix: str, commit: CommitRecord, ignore: tuple[str, ...] = ()
) -> Iterator[Problem]:
    """Compare the files of one directory with its record: sizes, checksums, and no others."""
    for key, recorded in sorted(commit.objects.items()):
        try:
            found = describe(path / key)
        except OSError as error:
            yield Problem(where=prefix + key, what=f"not readable ({error.strerror})")
            continue
        if found.bytes != recorded.bytes:
            what = f"{found.bytes} bytes, {recorded.bytes} were committed"
            yield Problem(where=prefix + key, what=what)
        elif found != recorded:
            yield Problem(where=prefix + key, what="altered: its checksum does not match")
    expected = {*commit.objects, COMMIT_KEY}
    for file in sorted(path.rglob("*")):
        key = file.relative_to(path).as_posix()
        if not file.is_dir() and key not in expected and not key.startswith(ignore):
            yield Problem(where=prefix + key, what="not part of what was committed")


def _prompt_lengths(path: Path, plan: Plan, problems: list[Problem]) -> list[int] | None:
    """Tokens of each prompt, or None when `prompts.arrow` cannot say."""
    try:
        table = read_table(path / PROMPTS_KEY, PROMPTS_SCHEMA)
    except FormatError as error:
        problems.append(Problem(where=PROMPTS_KEY, what=str(error)))
        return None
    if table.num_rows != plan.prompts.count:
        what = f"{table.num_rows} prompts, the plan has {plan.prompts.count}"
        problems.append(Problem(where=PROMPTS_KEY, what=what))
        return None
    lengths: list[int] = table["n_tokens"].to_pylist()
    return lengths


def _verify_shard(path: Path, plan: Plan, index: int, lengths: list[int] | None) -> list[Problem]:
    prefix = f"{SHARDS_KEY}/{shard_key(index)}/"
    directory = path / SHARDS_KEY / shard_key(index)
    commit, problems = _read_commit(directory, prefix)
    if commit is None:
        return problems
    if commit.plan != plan.hash or commit.shard != index:
        what = f"belongs to shard {commit.shard} of plan {commit.plan[:8]}"
        problems.append(Problem(where=prefix + COMMIT_KEY, what=what))
    first, end = plan.shards[index], plan.shards[index + 1]
    if lengths is not None and commit.rows != sum(lengths[first:end]):
        what = f"{commit.rows} rows, its prompts have {sum(lengths[first:end])} tokens"
        problems.append(Problem(where=prefix + COMMIT_KEY, what=what))
    wrong = list(_check_objects(directory, prefix, commit))
    # What the bytes mean is only looked at where the bytes are right.
    problems += wrong or _check_meaning(directory, prefix, plan, commit.rows, (first, end))
    return problems


def _check_meaning(
    directory: Path, prefix: str, plan: Plan, rows: int, prompts: tuple[int, int]
) -> Iterator[Problem]:
    """Rows, widths and prompts of a shard whose bytes are those that were written."""
    try:
        tokens = read_table(directory / TOKENS_KEY, TOKENS_SCHEMA)
    except FormatError as error:
        yield Problem(where=prefix + TOKENS_KEY, what=str(error))
    else:
        if tokens.num_rows != rows:
            what = f"{tokens.num_rows} rows, {rows} were committed"
            yield Problem(where=prefix + TOKENS_KEY, what=what)
        found = pc.unique(tokens["prompt_id"]).to_pylist()
        if found != list(range(*prompts)):
            what = f"should hold prompts {prompts[0]} to {prompts[1] - 1}, in order"
            yield Problem(where=prefix + TOKENS_KEY, what=what)
    for site in plan.sites:
        where = f"{prefix}{HIDDEN_KEY}/{site.name}"
        try:
            shape = site_shape(directory / HIDDEN_KEY, site.name)
        except (OSError, ValueError, KeyError) as error:
            yield Problem(where=where, what=f"not a readable Zarr array ({error})")
            continue
        if shape != (rows, site.width):
            yield Problem(where=where, what=f"shape {shape}, should be {(rows, site.width)}")


def _strangers(shards: Path, plan: Plan) -> Iterator[Problem]:
    """Names among the shards that are none; what a writer is busy with begins with a dot."""
    expected = {shard_key(index) for index in range(plan.n_shards)}
    if shards.is_dir():
        for path in sorted(shards.iterdir()):
            if path.name not in expected and not path.name.startswith("."):
                yield Problem(where=f"{SHARDS_KEY}/{path.name}", what="not a shard of the plan")
