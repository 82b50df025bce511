"""Compare every byte of a run with what was committed, SPEC.md section 8.

Never raises for what lies in the store: each difference is a `Problem` with its place.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa

from lpp.store.arrays.layout import check_site, site_metadata
from lpp.store.arrays.moments_verify import moments_problems
from lpp.store.errors import FormatError
from lpp.store.format.documents import load_json, pretty_json
from lpp.store.format.keys import (
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
from lpp.store.format.plan import Plan, parse_plan
from lpp.store.format.quarantine import QUARANTINE_SCHEMA, quarantine_problems
from lpp.store.format.record import CommitRecord, read_commit
from lpp.store.format.rows import prompts_problems, tokens_problems
from lpp.store.format.tables import PROMPTS_SCHEMA, TOKENS_SCHEMA, read_table
from lpp.store.objects.checked import checked_file
from lpp.store.objects.disk import ObjectRecord
from lpp.store.objects.paths import MAX_DOCUMENT_BYTES, MAX_ROOT_BYTES, plain_file, read_bounded
from lpp.store.objects.place import Place, children
from lpp.store.objects.writing import ATTEMPT, describe


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One difference between the store and what was committed."""

    where: str
    """Path relative to the run's directory."""
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def verify_run(path: Place) -> list[Problem]:
    """Every problem of the run in `path`; empty when each byte is as it was committed."""
    commit, problems = _read_commit(path, "")
    problems += _links(path)
    if commit is not None:
        problems += check_objects(
            path, "", commit.objects, ignore=(f"{SHARDS_KEY}/",), base=commit.base
        )
    home = path if commit is None else commit.home(path)
    try:
        data = read_bounded(home, PLAN_KEY, MAX_DOCUMENT_BYTES)
        plan = parse_plan(load_json(data, PLAN_KEY), PLAN_KEY)
    except (FormatError, OSError) as error:
        return [*problems, Problem(where=PLAN_KEY, what=f"not readable ({error})")]
    if plan.run_id != path.name or (commit is not None and plan.hash != commit.plan):
        return [*problems, Problem(where=PLAN_KEY, what=f"belongs to run {plan.run_id}")]
    prompts = None
    if commit is not None and not problems:
        prompts = _read_prompts(home, plan, commit, problems)
    for index in range(plan.n_shards):
        problems += _verify_shard(path, plan, index, prompts)
    problems += _strangers(path / SHARDS_KEY, plan)
    return problems


def verify_root(root: Place) -> list[Problem]:
    """What is wrong with the store at `root` beside its runs and scores; places relative to it.

    The root document, and names under `runs/` that are no committed run: a run whose record is
    gone is no run to a reader, and would be missed by nobody.
    """
    home = root.resolve() if isinstance(root, Path) else root
    data = read_bounded(home, ROOT_KEY, MAX_ROOT_BYTES)
    problems = []
    try:
        altered = pretty_json(load_json(data, ROOT_KEY)) != data
    except FormatError:
        altered = True
    if altered:
        problems = [Problem(where=ROOT_KEY, what="altered: not as a writer leaves it")]
    for path in children(root / RUNS_KEY):
        if not path.name.startswith(".") and not (path / COMMIT_KEY).exists():
            what = f"not a committed run: it holds no {COMMIT_KEY}"
            problems.append(Problem(where=f"{RUNS_KEY}/{path.name}", what=what))
    return problems


def _links(path: Place) -> Iterator[Problem]:
    """Links that would lead out of the store where every record is right."""
    for directory in (path.parent, path / SHARDS_KEY):
        if isinstance(directory, Path) and directory.is_symlink():
            yield Problem(where=directory.name, what="a symbolic link: a store holds none")


def _read_commit(path: Place, prefix: str) -> tuple[CommitRecord | None, list[Problem]]:
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
    path: Place,
    prefix: str,
    objects: Mapping[str, ObjectRecord],
    ignore: tuple[str, ...] = (),
    base: str = "",
) -> Iterator[Problem]:
    """Compare the files of one directory with its record: sizes, checksums, and no others.

    base: the attempt in `path` that the record names. What is left of others is no problem.
    """
    if base:
        objects = {f"{base}/{key}": recorded for key, recorded in objects.items()}
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
    for key in _files(path, ignore):
        if f"{key}/".startswith(ignore) or (base and _of_another_attempt(key, base)):
            continue
        if key not in expected:
            yield Problem(where=prefix + key, what="not part of what was committed")


def _files(path: Place, ignore: tuple[str, ...]) -> Iterator[str]:
    """Every file under `path`, at any depth, by its key relative to it; empty directories too.

    A directory with something in it is told by what is in it.
    """
    if isinstance(path, Path):
        yield from sorted(_local_files(path, ignore))
    else:
        yield from (str(file.relative_to(path)) for file in path.walk_files())


def _local_files(path: Path, ignore: tuple[str, ...]) -> Iterator[str]:
    """The same on a disk, in any order. What writers are busy with may vanish meanwhile."""
    for folder, folders, files in os.walk(path):
        place = Path(folder).relative_to(path)
        keys = {name: (place / name).as_posix() for name in (*folders, *files)}
        links = [name for name in folders if Path(folder, name).is_symlink()]
        yield from (keys[name] for name in (*files, *links))
        folders[:] = [name for name in folders if not f"{keys[name]}/".startswith(ignore)]
        if not keys and Path(folder) != path:
            yield place.as_posix()


def _of_another_attempt(key: str, base: str) -> bool:
    first, _, rest = key.partition("/")
    return bool(rest) and first != base and ATTEMPT.fullmatch(first) is not None


def _read_prompts(
    home: Place, plan: Plan, commit: CommitRecord, problems: list[Problem]
) -> pa.Table | None:
    """The prompts, or None when they are not those of the plan."""
    try:
        file = checked_file(home / PROMPTS_KEY, commit.objects[PROMPTS_KEY])
        counted = plan.prompts
        table = read_table(file, PROMPTS_SCHEMA, rows=counted.count, extra=8 * counted.tokens)
        misfits = prompts_problems(table, plan)
    except KeyError:
        table, misfits = None, ["not part of what was committed"]
    except (FormatError, OSError, ValueError) as error:
        table, misfits = None, [str(error)]
    problems += [Problem(where=PROMPTS_KEY, what=what) for what in misfits]
    return None if misfits else table


def _verify_shard(path: Place, plan: Plan, index: int, prompts: pa.Table | None) -> list[Problem]:
    prefix = f"{SHARDS_KEY}/{shard_key(index)}/"
    directory = path / SHARDS_KEY / shard_key(index)
    commit, problems = _read_commit(directory, prefix)
    if commit is None:
        return problems
    if commit.plan != plan.hash or commit.shard != index:
        what = f"belongs to shard {commit.shard} of plan {commit.plan[:8]}"
        return [Problem(where=prefix + COMMIT_KEY, what=what)]
    wrong = list(check_objects(directory, prefix, commit.objects, base=commit.base))
    if commit.base:
        prefix += f"{commit.base}/"
    # What the bytes mean is only looked at where the bytes are right.
    problems += wrong or _check_meaning(commit.home(directory), prefix, plan, commit, prompts)
    return problems


def _check_meaning(
    home: Place, prefix: str, plan: Plan, commit: CommitRecord, prompts: pa.Table | None
) -> Iterator[Problem]:
    """Rows, widths and tokens of a shard whose bytes are those that were written."""
    rows = commit.rows
    try:
        file = checked_file(home / TOKENS_KEY, commit.objects[TOKENS_KEY])
        tokens = read_table(file, TOKENS_SCHEMA, rows=rows)
    except KeyError:
        yield Problem(where=prefix + TOKENS_KEY, what="not part of what was committed")
    except (FormatError, OSError, ValueError) as error:
        yield Problem(where=prefix + TOKENS_KEY, what=str(error))
    else:
        if prompts is not None and commit.shard is not None:
            bounds = plan.shards[commit.shard : commit.shard + 2]
            for what in tokens_problems(tokens, prompts, *bounds):
                yield Problem(where=prefix + TOKENS_KEY, what=what)
        yield from _check_quarantine(home, prefix, plan, commit, tokens)
        if plan.keeps_moments:
            for key, what in moments_problems(home, plan, commit, tokens):
                yield Problem(where=prefix + key, what=what)
    for site in plan.sites if plan.keeps_rows else ():
        where = str(home / HIDDEN_KEY)
        try:
            # of a bucket the metadata alone: its chunks are seen when they are read
            group, dtype = site_metadata(home / HIDDEN_KEY, site.name), plan.stored_dtype
            check_site(group, where, site, dtype, rows, chunks=isinstance(group, Path))
        except FormatError as error:
            yield Problem(where=f"{prefix}{HIDDEN_KEY}/{site.name}", what=str(error))


def _check_quarantine(
    home: Place, prefix: str, plan: Plan, commit: CommitRecord, tokens: pa.Table
) -> Iterator[Problem]:
    """What a shard sets aside: as many prompts as its record says, its own, without statistics."""
    if not commit.quarantine and QUARANTINE_KEY not in commit.objects:
        return
    where = prefix + QUARANTINE_KEY
    try:
        file = checked_file(home / QUARANTINE_KEY, commit.objects[QUARANTINE_KEY])
        found = read_table(file, QUARANTINE_SCHEMA)
    except KeyError:
        yield Problem(where=where, what="not part of what was committed")
        return
    except (FormatError, OSError, ValueError) as error:
        yield Problem(where=where, what=str(error))
        return
    if found.num_rows != commit.quarantine:
        what = f"{found.num_rows} prompts, the record has {commit.quarantine}"
        yield Problem(where=where, what=what)
    if commit.shard is not None:
        first, end = plan.shards[commit.shard : commit.shard + 2]
        for what in quarantine_problems(found, tokens, first, end):
            yield Problem(where=where, what=what)


def _strangers(shards: Place, plan: Plan) -> Iterator[Problem]:
    """Names among the shards that are none; what a writer is busy with begins with a dot."""
    expected = {shard_key(index) for index in range(plan.n_shards)}
    for path in children(shards):
        if path.name not in expected and not path.name.startswith("."):
            yield Problem(where=f"{SHARDS_KEY}/{path.name}", what="not a shard of the plan")
