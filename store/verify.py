"""Compare every byte of a run with what was committed, SPEC.md section 8.

Never raises for what lies in the store: each difference is a `Problem` with its place.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa

from lpp.store.commit import CommitRecord, read_commit
from lpp.store.documents import MAX_DOCUMENT_BYTES, load_json, pretty_json
from lpp.store.errors import FormatError
from lpp.store.files import ObjectRecord, describe
from lpp.store.hidden_limits import check_site
from lpp.store.keys import (
    COMMIT_KEY,
    HIDDEN_KEY,
    PLAN_KEY,
    PROMPTS_KEY,
    QUARANTINE_KEY,
    ROOT_KEY,
    RUNS_KEY,
    SHARDS_KEY,
    TOKENS_KEY,
    shard_key,
)
from lpp.store.paths import MAX_ROOT_BYTES, plain_file, read_bounded
from lpp.store.plan import Plan, parse_plan
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
    problems += _links(path)
    if commit is not None:
        problems += check_objects(
            path, "", commit.objects, ignore=(f"{SHARDS_KEY}/", f"{QUARANTINE_KEY}/")
        )
    try:
        data = read_bounded(path, PLAN_KEY, MAX_DOCUMENT_BYTES)
        plan = parse_plan(load_json(data, PLAN_KEY), PLAN_KEY)
    except (FormatError, OSError) as error:
        return [*problems, Problem(where=PLAN_KEY, what=f"not readable ({error})")]
    if plan.run_id != path.name or (commit is not None and plan.hash != commit.plan):
        return [*problems, Problem(where=PLAN_KEY, what=f"belongs to run {plan.run_id}")]
    prompts = None if problems else _read_prompts(path, plan, problems)
    for index in range(plan.n_shards):
        problems += _verify_shard(path, plan, index, prompts)
    problems += _strangers(path / SHARDS_KEY, plan)
    return problems


def verify_root(root: Path) -> list[Problem]:
    """What is wrong with the store at `root` beside its runs and scores; places relative to it.

    The root document, and names under `runs/` that are no committed run: a run whose record is
    gone is no run to a reader, and would be missed by nobody.
    """
    data = read_bounded(root.resolve(), ROOT_KEY, MAX_ROOT_BYTES)
    problems = []
    try:
        altered = pretty_json(load_json(data, ROOT_KEY)) != data
    except FormatError:
        altered = True
    if altered:
        problems = [Problem(where=ROOT_KEY, what="altered: not as a writer leaves it")]
    runs = root / RUNS_KEY
    for path in sorted(runs.iterdir()) if runs.is_dir() else []:
        if not path.name.startswith(".") and not (path / COMMIT_KEY).exists():
            what = f"not a committed run: it holds no {COMMIT_KEY}"
            problems.append(Problem(where=f"{RUNS_KEY}/{path.name}", what=what))
    return problems


def _links(path: Path) -> Iterator[Problem]:
    """Links that would lead out of the store where every record is right."""
    for directory in (path.parent, path / SHARDS_KEY):
        if directory.is_symlink():
            yield Problem(where=directory.name, what="a symbolic link: a store holds none")


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
            found = describe(plain_file(path, key))
        except (OSError, FormatError) as error:
            what = error.strerror if isinstance(error, OSError) else str(error)
            yield Problem(where=prefix + key, what=f"not readable ({what})")
            continue
        if found.bytes != recorded.bytes:
            what = f"{found.bytes} bytes, {recorded.bytes} were committed"
            yield Problem(where=prefix + key, what=what)
        elif found != recorded:
            yield Problem(where=prefix + key, what="altered: its checksum does not match")
    expected = {*objects, COMMIT_KEY}
    expected |= {parent.as_posix() for key in objects for parent in PurePosixPath(key).parents}
    for file in sorted(path.rglob("*")):
        key = file.relative_to(path).as_posix()
        if f"{key}/".startswith(ignore) or key in expected:
            continue
        # an empty directory as well; one with something in it is told by what is in it
        if file.is_symlink() or not file.is_dir() or not any(file.iterdir()):
            yield Problem(where=prefix + key, what="not part of what was committed")


def _read_prompts(path: Path, plan: Plan, problems: list[Problem]) -> pa.Table | None:
    """The prompts, or None when they are not those of the plan."""
    try:
        table = read_table(
            path / PROMPTS_KEY,
            PROMPTS_SCHEMA,
            rows=plan.prompts.count,
            extra=8 * plan.prompts.tokens,
        )
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
        tokens = read_table(directory / TOKENS_KEY, TOKENS_SCHEMA, rows=rows)
    except FormatError as error:
        yield Problem(where=prefix + TOKENS_KEY, what=str(error))
    else:
        if prompts is not None and commit.shard is not None:
            bounds = plan.shards[commit.shard : commit.shard + 2]
            for what in tokens_problems(tokens, prompts, *bounds):
                yield Problem(where=prefix + TOKENS_KEY, what=what)
    for site in plan.sites:
        try:
            check_site(directory / HIDDEN_KEY, site, plan.stored_dtype, rows)
        except FormatError as error:
            yield Problem(where=f"{prefix}{HIDDEN_KEY}/{site.name}", what=str(error))


def _strangers(shards: Path, plan: Plan) -> Iterator[Problem]:
    """Names among the shards that are none; what a writer is busy with begins with a dot."""
    expected = {shard_key(index) for index in range(plan.n_shards)}
    if shards.is_dir():
        for path in sorted(shards.iterdir()):
            if path.name not in expected and not path.name.startswith("."):
                yield Problem(where=f"{SHARDS_KEY}/{path.name}", what="not a shard of the plan")
