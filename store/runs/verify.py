"""Compare every byte of a store with what was committed, SPEC.md section 8.

Nothing in the store makes it raise: each difference is a `Problem` with its place.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import pyarrow as pa

from lpp.store.arrays.layout import site_array
from lpp.store.committed.checked import Checked
from lpp.store.committed.compare import Problem, check_objects, open_or_problem
from lpp.store.errors import FormatError, MachineError
from lpp.store.format.commit_record import ATTEMPT, CommitRecord
from lpp.store.format.documents import canonical_json, load_json
from lpp.store.format.keys import (
    COMMIT_KEY,
    HIDDEN_KEY,
    MAX_DOCUMENT_BYTES,
    MAX_ROOT_BYTES,
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
from lpp.store.format.prompt_columns import BRANCH_COLUMNS
from lpp.store.format.quarantine import quarantine_problems
from lpp.store.format.rows import prompts_problems, tokens_problems
from lpp.store.format.tables import PROMPTS_SCHEMA, TOKENS_SCHEMA
from lpp.store.objects.locate import objects_at
from lpp.store.objects.place import Place
from lpp.store.objects.protocol import Objects
from lpp.store.runs.prompts import extra_columns, read_prompts
from lpp.store.runs.shards import Shard, is_run, open_shard, run_directory

ROOT_OF_0_1: Final = b'{\n "format": "lpp-store",\n "version": 1\n}\n'
"""The root document as lpp-engine 0.1.0 wrote it: later releases added runs to such stores."""


def verify_run(path: Place) -> list[Problem]:
    """Every problem of the run in `path`; empty when each byte is as it was committed."""
    run = run_directory(path)
    checked, problems = open_or_problem(run, CommitRecord)
    base = "" if checked is None else checked.record.base
    if checked is not None:
        problems += check_objects(checked, keep=(SHARDS_KEY,))
    plan, wrong = _plan_of(run, [f"{base}/{PLAN_KEY}"] if checked else _plan_keys(run))
    if plan is not None and checked is not None and plan.hash != checked.record.plan:
        plan, wrong = None, Problem(where=f"{base}/{PLAN_KEY}", what="is not that of the record")
    if plan is None:
        return [*problems, wrong]
    prompts = None
    if checked is not None and not problems:
        prompts, misfits = _read_prompts(checked, plan)
        problems += [Problem(where=f"{base}/{PROMPTS_KEY}", what=what) for what in misfits]
    for index in range(plan.n_shards):
        problems += _verify_shard(run, plan, index, prompts)
    problems += _strangers(run, plan)
    return problems


def _plan_of(run: Objects, keys: Sequence[str]) -> tuple[Plan | None, Problem]:
    """The first of `keys` that holds the plan of the run, or what is wrong with the last."""
    problem = Problem(where=PLAN_KEY, what="not readable (no such object)")
    for key in keys:
        try:
            plan = parse_plan(load_json(run.get(key, MAX_DOCUMENT_BYTES), PLAN_KEY), PLAN_KEY)
        except MachineError:
            raise
        except (FormatError, OSError) as error:
            problem = Problem(where=key, what=f"not readable ({error})")
            continue
        if plan.run_id == run.place.name:
            return plan, problem
        problem = Problem(where=key, what=f"belongs to run {plan.run_id}")
    return None, problem


def _plan_keys(run: Objects) -> list[str]:
    """Where the plan may be if the record of the run does not say."""
    try:
        names = [entry.name for entry in run.entries() if ATTEMPT.fullmatch(entry.name)]
    except (FormatError, PermissionError):
        return []
    return [f"{name}/{PLAN_KEY}" for name in names]


def verify_root(root: Place) -> list[Problem]:
    """Problems of the store at `root` outside its runs and scores; places are relative to it.

    The root document, and names under `runs/` that are not committed runs: readers skip a run whose
    record is gone, so only this check reports it.
    """
    store = objects_at(root)
    data = store.get(ROOT_KEY, MAX_ROOT_BYTES)
    problems = []
    try:
        document = load_json(data, ROOT_KEY)
        altered = data not in (canonical_json(document), ROOT_OF_0_1)
    except FormatError:
        altered = True
    if altered:
        problems = [Problem(where=ROOT_KEY, what="altered: not as a writer leaves it")]
    for entry in store.entries(RUNS_KEY):
        where = f"{RUNS_KEY}/{entry.name}"
        if not entry.name.startswith(".") and not is_run(store, entry.name):
            what = f"not a committed run: it holds no {COMMIT_KEY}"
            problems.append(Problem(where=where, what=what))
    return problems


def _read_prompts(checked: Checked[CommitRecord], plan: Plan) -> tuple[pa.Table | None, list[str]]:
    """The prompts and no reasons; or None and the reasons why they do not fit the plan."""
    try:
        schema = pa.schema([*PROMPTS_SCHEMA, *extra_columns(checked)])
        table = read_prompts(checked, plan, schema)
    except FormatError as error:
        return None, [str(error)]
    misfits = prompts_problems(table, plan)
    needed = [name for name in schema.names if name in (*PROMPTS_SCHEMA.names, *BRANCH_COLUMNS)]
    return (None if misfits else table.select(needed)), misfits


def _verify_shard(run: Objects, plan: Plan, index: int, prompts: pa.Table | None) -> list[Problem]:
    prefix = f"{SHARDS_KEY}/{shard_key(index)}"
    try:
        shard = open_shard(run, plan, index)
    except MachineError:
        raise
    except (FormatError, OSError) as error:
        shard = str(error)
    if not isinstance(shard, Shard):
        what = shard or "not committed (capture has not come to it, or was stopped before)"
        return [Problem(where=f"{prefix}/{COMMIT_KEY}", what=what)]
    problems = list(check_objects(shard))
    if not problems:  # meanings are checked only if the bytes are right
        problems = [
            problem.below(shard.record.base) for problem in _check_meaning(shard, plan, prompts)
        ]
    return [problem.below(prefix) for problem in problems]


def _check_meaning(shard: Shard, plan: Plan, prompts: pa.Table | None) -> Iterator[Problem]:
    """Check rows, widths and tokens of a shard whose bytes are as committed."""
    try:
        tokens = shard.table(TOKENS_KEY, TOKENS_SCHEMA, rows=shard.rows)
    except FormatError as error:
        yield Problem(where=TOKENS_KEY, what=str(error))
        return
    if prompts is not None:
        for what in tokens_problems(tokens, prompts, shard.first_prompt, shard.end_prompt):
            yield Problem(where=TOKENS_KEY, what=what)
    try:
        if shard.record.quarantine or QUARANTINE_KEY in shard.record.objects:
            for what in _quarantine_problems(shard, tokens):
                yield Problem(where=QUARANTINE_KEY, what=what)
            shard.quarantined()
    except FormatError as error:
        yield Problem(where=QUARANTINE_KEY, what=str(error))
    for site in plan.sites:
        spec = site_array(site, plan.dtype_of(site), shard.rows)
        try:
            with shard.array(HIDDEN_KEY, spec, end=0) as array:
                if shard.objects.is_local:  # in a bucket, chunks are checked when they are read
                    array.check()
        except FormatError as error:
            yield Problem(where=f"{HIDDEN_KEY}/{site.name}", what=str(error))


def _quarantine_problems(shard: Shard, tokens: pa.Table) -> list[str]:
    """Check the quarantine: as many prompts as the record says, of this shard, without
    statistics.
    """
    quarantine = shard.quarantine()
    if QUARANTINE_KEY not in shard.record.objects or not shard.record.quarantine:
        return [f"the record has {shard.record.quarantine} prompts"]
    return quarantine_problems(quarantine, tokens, shard.first_prompt, shard.end_prompt)


def _strangers(run: Objects, plan: Plan) -> Iterator[Problem]:
    """Unexpected entries under `shards/`; names that begin with a dot belong to writers."""
    expected = {shard_key(index) for index in range(plan.n_shards)}
    try:
        entries = run.entries(SHARDS_KEY)
    except (FormatError, PermissionError) as error:
        yield Problem(where=SHARDS_KEY, what=str(error))
        return
    for entry in entries:
        if entry.name not in expected and not entry.name.startswith("."):
            yield Problem(where=f"{SHARDS_KEY}/{entry.name}", what="not a shard of the plan")
