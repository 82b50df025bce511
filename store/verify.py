"""Compare every byte of a run with what was committed, SPEC.md section 8.

Never raises for what lies in the store: each difference is a `Problem` with its place.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from lpp.store.commit import CommitRecord, read_commit
from lpp.store.documents import load_json
from lpp.store.errors import FormatError
from lpp.store.files import ObjectRecord, describe
from lpp.store.hidden import site_shape
from lpp.store.keys import (
    COMMIT_KEY,
    HIDDEN_KEY,
    PLAN_KEY,
    PROMPTS_KEY,
    QUARANTINE_KEY,
    SHARDS_KEY,
    TOKENS_KEY,
    shard_key,
)
from lpp.store.plan import Plan, parse_plan
from lpp.store.quarantine import QUARANTINE_SCHEMA, quarantine_problems
from lpp.store.rows import prompts_problems, tokens_problems
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
    if commit is not None:
        problems += check_objects(path, "", commit.objects, ignore=(f"{SHARDS_KEY}/",))
    try:
        plan = parse_plan(load_json((path / PLAN_KEY).read_bytes(), PLAN_KEY), PLAN_KEY)
    except (FormatError, OSError) as error:
        return [*problems, Problem(where=PLAN_KEY, what=f"not readable ({error})")]
    if plan.run_id != path.name or (commit is not None and plan.hash != commit.plan):
        return [*problems, Problem(where=PLAN_KEY, what=f"belongs to run {plan.run_id}")]
    prompts = None if problems else _read_prompts(path, plan, problems)
    for index in range(plan.n_shards):
        problems += _verify_shard(path, plan, index, prompts)
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


def check_objects(
    path: Path, prefix: str, objects: Mapping[str, ObjectRecord], ignore: tuple[str, ...] = ()
) -> Iterator[Problem]:
    """Compare the files of one directory with its record: sizes, checksums, and no others."""
    for key, recorded in sorted(objects.items()):
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
    expected = {*objects, COMMIT_KEY}
    for file in sorted(path.rglob("*")):
        key = file.relative_to(path).as_posix()
        if key.startswith(ignore):
            continue
        if not file.is_dir() and key not in expected:
            yield Problem(where=prefix + key, what="not part of what was committed")


def _read_prompts(path: Path, plan: Plan, problems: list[Problem]) -> pa.Table | None:
    """The prompts, or None when they are not those of the plan."""
    try:
        table = read_table(path / PROMPTS_KEY, PROMPTS_SCHEMA)
        misfits = prompts_problems(table, plan)
    except FormatError as error:
        table, misfits = None, [str(error)]
    problems += [Problem(where=PROMPTS_KEY, what=what) for what in misfits]
    return None if misfits else table


def _verify_shard(path: Path, plan: Plan, index: int, prompts: pa.Table | None) -> list[Problem]:
    prefix = f"{SHARDS_KEY}/{shard_key(index)}/"
    directory = path / SHARDS_KEY / shard_key(index)
    commit, problems = _read_commit(directory, prefix)
    if commit is None:
        return problems
    if commit.plan != plan.hash or commit.shard != index:
        what = f"belongs to shard {commit.shard} of plan {commit.plan[:8]}"
        return [Problem(where=prefix + COMMIT_KEY, what=what)]
    wrong = list(check_objects(directory, prefix, commit.objects))
    # What the bytes mean is only looked at where the bytes are right.
    problems += wrong or _check_meaning(directory, prefix, plan, commit, prompts)
    return problems


def _check_meaning(
    directory: Path, prefix: str, plan: Plan, commit: CommitRecord, prompts: pa.Table | None
) -> Iterator[Problem]:
    """Rows, widths and tokens of a shard whose bytes are those that were written."""
    rows = commit.rows
    try:
        tokens = read_table(directory / TOKENS_KEY, TOKENS_SCHEMA)
    except FormatError as error:
        yield Problem(where=prefix + TOKENS_KEY, what=str(error))
    else:
        if tokens.num_rows != rows:
            what = f"{tokens.num_rows} rows, {rows} were committed"
            yield Problem(where=prefix + TOKENS_KEY, what=what)
        if prompts is not None and commit.shard is not None:
            bounds = plan.shards[commit.shard : commit.shard + 2]
            for what in tokens_problems(tokens, prompts, *bounds):
                yield Problem(where=prefix + TOKENS_KEY, what=what)
        yield from _check_quarantine(directory, prefix, plan, commit, tokens)
    for site in plan.sites:
        where = f"{prefix}{HIDDEN_KEY}/{site.name}"
        try:
            shape = site_shape(directory / HIDDEN_KEY, site.name)
        except FormatError as error:
            yield Problem(where=where, what=str(error))
            continue
        if shape != (rows, site.width):
            yield Problem(where=where, what=f"shape {shape}, should be {(rows, site.width)}")


def _check_quarantine(
    directory: Path, prefix: str, plan: Plan, commit: CommitRecord, tokens: pa.Table
) -> Iterator[Problem]:
    """What a shard sets aside: as many prompts as its record says, its own, without statistics."""
    if not commit.quarantine and QUARANTINE_KEY not in commit.objects:
        return
    where = prefix + QUARANTINE_KEY
    try:
        found = read_table(directory / QUARANTINE_KEY, QUARANTINE_SCHEMA)
    except FormatError as error:
        yield Problem(where=where, what=str(error))
        return
    if found.num_rows != commit.quarantine:
        what = f"{found.num_rows} prompts, the record has {commit.quarantine}"
        yield Problem(where=where, what=what)
    if commit.shard is not None:
        first, end = plan.shards[commit.shard : commit.shard + 2]
        for what in quarantine_problems(found, tokens, first, end):
            yield Problem(where=where, what=what)


def _strangers(shards: Path, plan: Plan) -> Iterator[Problem]:
    """Names among the shards that are none; what a writer is busy with begins with a dot."""
    expected = {shard_key(index) for index in range(plan.n_shards)}
    if shards.is_dir():
        for path in sorted(shards.iterdir()):
            if path.name not in expected and not path.name.startswith("."):
                yield Problem(where=f"{SHARDS_KEY}/{path.name}", what="not a shard of the plan")
