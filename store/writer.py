"""Write one run, a whole shard at a time, SPEC.md section 6.

Commit comes before advance: a killed job resumes at the first shard it had not committed, and
no reader ever sees part of one.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from lpp.store.commit import CommitRecord, write_commit
from lpp.store.documents import pretty_json
from lpp.store.errors import ConflictError, ErrorKind
from lpp.store.files import (
    ObjectRecord,
    full_disk_named,
    staged_directory,
    sweep_stages,
    write_object,
)
from lpp.store.hidden import Rows, encode_site
from lpp.store.keys import (
    HIDDEN_KEY,
    PLAN_KEY,
    PROMPTS_KEY,
    RUNS_KEY,
    SHARDS_KEY,
    TOKENS_KEY,
    shard_key,
)
from lpp.store.plan import Plan
from lpp.store.run import Run, ShardRecord
from lpp.store.tables import PROMPTS_SCHEMA, TOKENS_SCHEMA, encode_table


class RunWriter:
    """Creates the run of `plan` in the store at `root`, or goes on with it.

    prompts: (count, 6), `lpp.store.tables.PROMPTS_SCHEMA`. One writer per shard at a time.
    """

    def __init__(self, root: Path, plan: Plan, prompts: pa.Table) -> None:
        self._plan = plan
        path = root / RUNS_KEY / plan.run_id
        if not path.is_dir():
            _create_run(path, plan, prompts)
        self.run = Run(path)
        if self.run.plan.hash != plan.hash:  # eight hex digits met by chance
            raise ConflictError(
                f"{path} holds another plan whose hash begins alike. Use another store.",
                kind=ErrorKind.PLAN_DIFFERS,
            )
        sweep_stages(path / SHARDS_KEY)

    def committed(self, index: int) -> bool:
        """Whether shard `index` is there already, by whoever wrote it."""
        return self.run.shard(index) is not None

    def write_shard(self, index: int, hidden: Mapping[str, Rows], tokens: pa.Table) -> ShardRecord:
        """Encode, write and commit shard `index`; keep what another writer committed first.

        hidden: site -> (T, d) in the stored dtype (uint16 for bfloat16). Row t of every site and
        row t of `tokens` (`TOKENS_SCHEMA`) are the same token. Encodes one site at a time.
        Raises MachineError(NO_SPACE); whatever was committed before stays.
        """
        self._check_rows(index, hidden, tokens)
        target = self.run.path / SHARDS_KEY / shard_key(index)
        if not self.committed(index):
            shutil.rmtree(target, ignore_errors=True)  # a shard whose record was damaged
            try:
                with full_disk_named(target), staged_directory(target) as stage:
                    self._fill(stage, index, hidden, tokens)
            except FileExistsError:
                pass  # the other writer's shard comes from the same plan
        shard = self.run.shard(index)
        assert shard is not None
        return shard

    def _fill(self, stage: Path, index: int, hidden: Mapping[str, Rows], tokens: pa.Table) -> None:
        objects: dict[str, ObjectRecord] = {}
        for site in self._plan.sites:
            encoded = encode_site(site, hidden[site.name], self._plan.stored_dtype)
            for key, data in encoded.items():
                name = f"{HIDDEN_KEY}/{key}"
                if name not in objects:  # every site brings the group's own metadata
                    objects[name] = write_object(stage / name, data)
        objects[TOKENS_KEY] = write_object(stage / TOKENS_KEY, encode_table(tokens))
        record = CommitRecord(
            plan=self._plan.hash, shard=index, rows=tokens.num_rows, objects=objects
        )
        write_commit(stage, record)

    def _check_rows(self, index: int, hidden: Mapping[str, Rows], tokens: pa.Table) -> None:
        """A shard that does not fit its plan is a bug of the caller, found before it is written."""
        if not tokens.schema.equals(TOKENS_SCHEMA):
            raise ValueError(f"shard {index}: token columns are {tokens.schema.names}")
        if set(hidden) != set(self._plan.site_names):
            raise ValueError(f"shard {index}: sites are {sorted(hidden)}")
        for site, rows in hidden.items():
            if len(rows) != tokens.num_rows:
                raise ValueError(
                    f"shard {index}: {site} has {len(rows)} rows, tokens {tokens.num_rows}"
                )


def _create_run(path: Path, plan: Plan, prompts: pa.Table) -> None:
    if not prompts.schema.equals(PROMPTS_SCHEMA) or prompts.num_rows != plan.prompts.count:
        raise ValueError(f"prompts do not fit the plan: {prompts.num_rows} of {plan.prompts.count}")
    sweep_stages(path.parent)
    try:
        with full_disk_named(path), staged_directory(path) as stage:
            (stage / SHARDS_KEY).mkdir()
            objects = {
                PLAN_KEY: write_object(stage / PLAN_KEY, pretty_json(plan.document)),
                PROMPTS_KEY: write_object(stage / PROMPTS_KEY, encode_table(prompts)),
            }
            write_commit(stage, CommitRecord(plan=plan.hash, shard=None, rows=0, objects=objects))
    except FileExistsError:
        pass  # another writer of the same plan was first
