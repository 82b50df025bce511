"""Write one run, a whole shard at a time, SPEC.md section 6.

Commit comes before advance: a killed job resumes at the first shard it had not committed, and
no reader ever sees part of one.
"""

import contextlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lpp.store.arrays.hidden import GROUP_KEY, Rows, check_rows, encode_group, encode_site
from lpp.store.arrays.moments import (
    SiteMoments,
    band_counts,
    check_moments,
    encode_scatters,
    moments_table,
)
from lpp.store.errors import ConflictError, ErrorKind
from lpp.store.format.documents import pretty_json, validate_document
from lpp.store.format.keys import (
    COMMIT_KEY,
    HIDDEN_KEY,
    MOMENTS_KEY,
    PLAN_KEY,
    PROMPTS_KEY,
    QUARANTINE_KEY,
    RUNS_KEY,
    SCATTERS_KEY,
    SHARDS_KEY,
    TOKENS_KEY,
    shard_key,
)
from lpp.store.format.plan import Plan, SiteSpec, validate_plan
from lpp.store.format.quarantine import QUARANTINE_SCHEMA, quarantine_problems
from lpp.store.format.record import CommitRecord, write_commit
from lpp.store.format.rows import prompts_problems, tokens_problems
from lpp.store.format.tables import encode_table
from lpp.store.objects.conditions import check_conditions
from lpp.store.objects.disk import ObjectRecord, put_back, set_aside
from lpp.store.objects.object_path import ObjectPath
from lpp.store.objects.place import Place
from lpp.store.objects.writing import (
    remove,
    staged_directory,
    sweep_others,
    sweep_stages,
    write_object,
)
from lpp.store.read import Run, ShardRecord, read_shard

SITES_AT_ONCE: Final = 2
"""Sites encoded side by side: while one waits for the disk, another is compressed. Each holds its
own encoded rows in memory; chunks of one site are compressed in parallel by Zarr as well."""


class RunWriter:
    """Creates the run of `plan` in the store at `root`, or goes on with it.

    prompts: (count, 6), `PROMPTS_SCHEMA`. Writers of other shards, and of the
    same one, may work at once. replacing: shards to write anew though their records are intact.
    set_aside: texts of the corpus that became no prompt, `TEXTS_SCHEMA`.
    ValueError for prompts, rows or a plan that do not fit together.
    """

    def __init__(
        self,
        root: Place,
        plan: Plan,
        prompts: pa.Table,
        *,
        replacing: Collection[int] = (),
        set_aside: pa.Table | None = None,
    ) -> None:
        misfits = validate_document(Plan, plan.document) or validate_plan(plan)
        if misfits := misfits or prompts_problems(prompts, plan):
            raise ValueError("the plan does not fit: " + "; ".join(misfits))
        self._plan = plan
        self._prompts = prompts
        check_conditions(root)
        self._replacing = set(replacing)
        path = root / RUNS_KEY / plan.run_id
        if not (path / COMMIT_KEY).exists():
            _create_run(path, plan, prompts, set_aside)
        elif isinstance(path, Path):  # of one killed while it made the run that another made
            sweep_stages(path.parent)
        self.run = Run(path)
        if self.run.plan.hash != plan.hash:  # eight hex digits met by chance
            raise ConflictError(
                f"{path} holds another plan whose hash begins alike. Use another store.",
                kind=ErrorKind.PLAN_DIFFERS,
            )
        sweep_stages(path / SHARDS_KEY)
        self.written: set[int] = set()
        """Shards that this writer committed."""
        self.outrun: set[int] = set()
        """Shards given to `write_shard` that another writer had committed first."""

    def committed(self, index: int) -> bool:
        """Whether shard `index` is there already, by whoever wrote it, and may stay."""
        return index not in self._replacing and self.run.shard(index) is not None

    def uncommitted(self, indices: Sequence[int]) -> list[int]:
        """Those of `indices` that are still to be written, in order."""
        absent = set(self.run.uncommitted([i for i in indices if i not in self._replacing]))
        return [i for i in indices if i in self._replacing or i in absent]

    def write_shard(
        self,
        index: int,
        hidden: Mapping[str, Rows],
        tokens: pa.Table,
        quarantine: pa.Table | None = None,
        moments: Mapping[str, SiteMoments] | None = None,
    ) -> ShardRecord:
        """Encode, write and commit shard `index`; keep what another writer committed first, and
        say so in `outrun`.

        hidden: site -> (T, d) in the stored dtype (uint16 for bfloat16). Row t of every site and
        row t of `tokens` (`TOKENS_SCHEMA`) are the same token. quarantine: prompts of the shard
        that are set aside (`QUARANTINE_SCHEMA`), if any. moments: of each site, where the plan
        keeps them; then `hidden` is empty where it keeps no rows. Each is asked for when its turn
        comes, in a thread of the writer's. Encodes two sites at a time.
        Raises MachineError(NO_SPACE); whatever was committed before stays.
        """
        if quarantine is None:
            quarantine = QUARANTINE_SCHEMA.empty_table()
        self._check_rows(index, hidden, tokens, quarantine)
        if (moments is not None) != self._plan.keeps_moments:
            raise ValueError(f"shard {index}: the plan keeps {self._plan.keep}")
        target = self.run.path / SHARDS_KEY / shard_key(index)
        if self.committed(index):
            self.outrun.add(index)
        else:
            try:
                self._commit(target, index, _Arrays(hidden, moments or {}), tokens, quarantine)
                self.written.add(index)
                self._replacing.discard(index)
            except FileExistsError:  # another writer's shard, which comes from the same plan
                if not target.exists():
                    raise  # it is another name that stands in the way
                self.outrun.add(index)
        shard = self.run.shard(index)
        if shard is None:
            raise ConflictError(
                f"{target} was removed or altered while it was being written. "
                "See that nothing else works on this run, then repeat the same command.",
                kind=ErrorKind.INCOMPLETE,
            )
        return shard

    def _commit(
        self,
        target: Place,
        index: int,
        arrays: "_Arrays",
        *tables: pa.Table,
    ) -> None:
        """Write the shard beside its place; what is bad there goes once this one is in place.

        Where this fails, what was there is there again.
        """
        aside: list[Path] = []
        try:
            with staged_directory(
                target, lambda: aside.extend(self._make_way(target, index))
            ) as stage:
                self._fill(stage, index, arrays, *tables)
        except BaseException:
            for bad in aside:
                put_back(bad, bad.with_name(target.name))
            raise
        for bad in aside:
            remove(bad)
        if index in self._replacing and isinstance(target, ObjectPath):
            sweep_others(target, keep=stage.name)

    def _make_way(self, target: Place, index: int) -> list[Path]:
        """Set aside a shard that is damaged or to be replaced, and say where it is; one that was
        committed this moment stays.
        """
        if not isinstance(target, Path):
            return []  # in a bucket, `write_commit` replaces the record itself
        if not os.path.lexists(target):
            return []  # what comes in the meantime is another writer's, and keeps the name
        if index not in self._replacing and read_shard(self._plan, index, target):
            return []  # another writer's, a moment old: taken away, it would be missed
        try:
            aside = set_aside(target)
        except FileNotFoundError:
            return []
        if index in self._replacing or not read_shard(self._plan, index, aside):
            return [aside]
        put_back(aside, target)
        return []

    def _fill(
        self,
        stage: Place,
        index: int,
        arrays: "_Arrays",
        tokens: pa.Table,
        quarantine: pa.Table,
    ) -> None:
        plan = self._plan
        objects: dict[str, ObjectRecord] = {}
        if plan.keeps_rows:
            objects |= _write_group(
                stage / HIDDEN_KEY,
                plan.sites,
                lambda site: encode_site(site, arrays.hidden[site.name], plan.stored_dtype),
            )
        if plan.keeps_moments:
            counts = band_counts(tokens, quarantine["prompt_id"].to_numpy(), plan.prefixes)
            objects |= _write_moments(stage, plan, arrays.moments, counts)
        objects[TOKENS_KEY] = write_object(stage / TOKENS_KEY, encode_table(tokens))
        if quarantine.num_rows:
            data = encode_table(quarantine)
            objects[QUARANTINE_KEY] = write_object(stage / QUARANTINE_KEY, data)
        record = CommitRecord(
            format=2 if quarantine.num_rows else plan.format,
            plan=plan.hash,
            shard=index,
            rows=tokens.num_rows,
            objects=objects,
            quarantine=quarantine.num_rows,
        )
        write_commit(stage, record, replacing=index in self._replacing)

    def _check_rows(
        self, index: int, hidden: Mapping[str, Rows], tokens: pa.Table, quarantine: pa.Table
    ) -> None:
        """A shard that does not fit its plan is a bug of the caller, found before it is written."""
        if not 0 <= index < self._plan.n_shards:
            raise ValueError(f"shard {index}: the plan has {self._plan.n_shards}")
        first, end = self._plan.shards[index : index + 2]
        if problems := tokens_problems(tokens, self._prompts, first, end):
            raise ValueError(f"shard {index}: tokens: " + "; ".join(problems))
        if problems := quarantine_problems(quarantine, tokens, first, end):
            raise ValueError(f"shard {index}: quarantine: " + "; ".join(problems))
        kept = self._plan.sites if self._plan.keeps_rows else ()
        if set(hidden) != {site.name for site in kept}:
            raise ValueError(f"shard {index}: sites are {sorted(hidden)}")
        for site in kept:
            check_rows(site, hidden[site.name], self._plan.stored_dtype, tokens.num_rows)


@dataclass(frozen=True, slots=True)
class _Arrays:
    """What a shard holds beside its tables, by site."""

    hidden: Mapping[str, Rows]
    moments: Mapping[str, SiteMoments]


def _write_moments(
    stage: Place, plan: Plan, moments: Mapping[str, SiteMoments], counts: npt.NDArray[np.int64]
) -> dict[str, ObjectRecord]:
    """Scatter matrices site by site, then the table of counts and means."""
    small: dict[str, SiteMoments] = {}

    def encode(site: SiteSpec) -> dict[str, memoryview]:
        of_site = moments[site.name]
        check_moments(site, plan, of_site, counts)
        # without its matrices, which are written and forgotten
        small[site.name] = replace(of_site, scatter=np.empty((len(counts), 0)))
        return encode_scatters(site, plan, of_site)

    objects = _write_group(stage / SCATTERS_KEY, plan.sites, encode)
    data = encode_table(moments_table(plan, small))
    return objects | {MOMENTS_KEY: write_object(stage / MOMENTS_KEY, data)}


def _write_group(
    group: Place, sites: Sequence[SiteSpec], encode: Callable[[SiteSpec], Mapping[str, memoryview]]
) -> dict[str, ObjectRecord]:
    """Write a Zarr group with an array for each site, two at a time."""

    def write_site(site: SiteSpec) -> dict[str, ObjectRecord]:
        return {key: write_object(group / key, data) for key, data in encode(site).items()}

    objects = {GROUP_KEY: write_object(group / GROUP_KEY, encode_group())}
    with ThreadPoolExecutor(SITES_AT_ONCE, thread_name_prefix="lpp-encode") as pool:
        for written in pool.map(write_site, sites):
            objects |= written
    return {f"{group.name}/{key}": record for key, record in objects.items()}


def _create_run(path: Place, plan: Plan, prompts: pa.Table, set_aside: pa.Table | None) -> None:
    sweep_stages(path.parent)
    # FileExistsError: another writer of the same plan was first
    with contextlib.suppress(FileExistsError), staged_directory(path) as stage:
        if isinstance(stage, Path):
            (stage / SHARDS_KEY).mkdir()
        objects = {
            PLAN_KEY: write_object(stage / PLAN_KEY, pretty_json(plan.document)),
            PROMPTS_KEY: write_object(stage / PROMPTS_KEY, encode_table(prompts)),
        }
        if set_aside is not None and set_aside.num_rows:
            data = encode_table(set_aside)
            objects[QUARANTINE_KEY] = write_object(stage / QUARANTINE_KEY, data)
        record = CommitRecord(
            format=plan.format, plan=plan.hash, shard=None, rows=0, objects=objects
        )
        write_commit(stage, record)
