"""Write one run, a whole shard at a time, SPEC.md section 6.

Commit comes before advance: a killed job resumes at the first shard it had not committed, and
no reader ever sees part of one.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from lpp.store.arrays.decode_pool import usable_cores
from lpp.store.arrays.encoder import (
    Encoding,
    check_rows,
    chunk_rows,
    row_chunks,
)
from lpp.store.arrays.layout import PACKINGS, Rows, site_array
from lpp.store.arrays.metadata import METADATA_KEY, group_document, metadata_bytes, packing_of
from lpp.store.committed.checked import open_checked
from lpp.store.committed.commit import QUIETLY, Attempt, attempt, sweep
from lpp.store.errors import ConflictError, ErrorKind, FormatError, InputError
from lpp.store.format.commit_record import CommitRecord, undamaged_record
from lpp.store.format.documents import canonical_json, validate_document, wide_integers
from lpp.store.format.keys import (
    COMMIT_KEY,
    HIDDEN_KEY,
    MAX_DOCUMENT_BYTES,
    PLAN_KEY,
    PROMPTS_KEY,
    QUARANTINE_KEY,
    RUNS_KEY,
    SHARDS_KEY,
    TOKENS_KEY,
    shard_key,
)
from lpp.store.format.plan import Plan, SiteSpec, validate_plan
from lpp.store.format.prompt_columns import BRANCH_COLUMNS, CONTINUATION_COLUMNS
from lpp.store.format.quarantine import QUARANTINE_SCHEMA, quarantine_problems
from lpp.store.format.rows import prompts_problems, tokens_problems
from lpp.store.format.tables import encode_table, encode_texts
from lpp.store.objects.locate import objects_at
from lpp.store.objects.place import Url
from lpp.store.objects.protocol import Objects
from lpp.store.runs.heartbeat import writers
from lpp.store.runs.read import Run
from lpp.store.runs.shards import Shard


class ShardContent(Protocol):
    """The content of one shard, given piece by piece. Row t of every site is token t of the
    table.
    """

    @property
    def rows(self) -> int:
        """T, tokens of the shard."""

    def chunks(self, site: str, chunk_rows: int) -> Iterator[Rows]:
        """The (T, d) rows of a site in chunks of `chunk_rows`, the last of what is left; each is
        read before the next is asked for. Asked for once, from any thread.
        """

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """(`TOKENS_SCHEMA`, `QUARANTINE_SCHEMA`), once every site was read."""


class RunWriter:
    """Creates the run of `plan` in the store at `root`, or continues it. If the run's own record,
    plan or prompts are damaged, writes them again; its shards stay.

    prompts: (count, 6), `PROMPTS_SCHEMA`, then any columns of `lpp.store.format.prompt_columns`,
    which are written if the run does not exist yet (`Run.require_columns`). Other writers may write
    other shards, or the same ones, at the same time. replacing: shards to write anew though their
    records are intact. set_aside: texts of the corpus that became no prompt, `TEXTS_SCHEMA`.
    ValueError for prompts, rows or a plan that do not fit together; InputError for a run with
    moments; ConflictError(PLAN_DIFFERS) where the run holds other values in one of those columns.
    """

    def __init__(
        self,
        root: Url,
        plan: Plan,
        prompts: pa.Table,
        *,
        replacing: Collection[int] = (),
        set_aside: pa.Table | None = None,
    ) -> None:
        require_no_moments(plan)
        misfits = validate_document(Plan, plan.document) or validate_plan(plan)
        if misfits := misfits or prompts_problems(prompts, plan):
            raise ValueError("the plan does not fit: " + "; ".join(misfits))
        self._plan = plan
        self._prompts = prompts
        self._replacing = set(replacing)
        store = objects_at(root)
        store.check_exclusive()
        store.sweep()
        directory = store.below(f"{RUNS_KEY}/{plan.run_id}")
        existing = _bytes_of_record(directory)
        created = not _is_whole(directory) and _create_run(
            directory, plan, prompts, set_aside, existing
        )
        self.run = Run(directory.place)
        if self.run.plan.hash != plan.hash:  # the eight hex digits are equal by chance
            raise ConflictError(
                f"{directory.place} holds another plan whose hash begins alike. Use another store.",
                kind=ErrorKind.PLAN_DIFFERS,
            )
        if not created:
            check_columns(self.run, prompts)
        directory.below(SHARDS_KEY).sweep()
        self.written: set[int] = set()
        """Shards that this writer committed."""
        self.lost_race: set[int] = set()
        """Shards given to `write_shard` that another writer had committed first."""

    def committed(self, index: int) -> bool:
        """Whether shard `index` is committed, by any writer, and is not to be replaced."""
        return index not in self._replacing and self.run.shard(index) is not None

    def uncommitted(self, indices: Sequence[int]) -> list[int]:
        """The `indices` that are still to be written, in order."""
        absent = set(self.run.uncommitted([i for i in indices if i not in self._replacing]))
        return [i for i in indices if i in self._replacing or i in absent]

    def write_shard(
        self,
        index: int,
        hidden: Mapping[str, Rows],
        tokens: pa.Table,
        quarantine: pa.Table | None = None,
    ) -> Shard:
        """Encode, write and commit shard `index`, all of whose rows are in memory.

        hidden: site -> (T, d) in the site's dtype (uint16 for bfloat16; the plan's `stored_dtype`
        for float8_e4m3). tokens, quarantine: as in `ShardContent`; no quarantine by default.
        Returns and raises as `write`.
        """
        if quarantine is None:
            quarantine = QUARANTINE_SCHEMA.empty_table()
        content = _InMemory(hidden, tokens, quarantine)
        self._check_tables(index, tokens, quarantine)
        self._check_sites(index, content)
        with ThreadPoolExecutor(usable_cores(), thread_name_prefix="lpp-encode") as encoders:
            return self.write(index, content, encoders)

    def write(self, index: int, content: ShardContent, encoders: Executor) -> Shard:
        """Encode, write and commit shard `index`; if another writer committed it first, keep that
        shard and add `index` to `lost_race`.

        encoders: threads, which may serve several shards at once; each takes a whole site, packs a
        chunk and writes it before the next. ValueError for content that does not fit the plan.
        MachineError(NO_SPACE): whatever was committed before stays.
        """
        if self.committed(index):
            self.lost_race.add(index)
        else:
            try:
                self._commit(index, content, encoders)
                self.written.add(index)
            except FileExistsError:  # another writer's shard, which comes from the same plan
                self.lost_race.add(index)
            self._replacing.discard(index)
        shard = self.run.shard(index)
        if shard is None:
            raise ConflictError(
                f"{self.run.path / SHARDS_KEY / shard_key(index)} was removed or altered while it "
                "was being written. See that nothing else works on this run, then repeat the same "
                "command.",
                kind=ErrorKind.INCOMPLETE,
            )
        return shard

    def _commit(self, index: int, content: ShardContent, encoders: Executor) -> None:
        """Write a shard. FileExistsError if another writer was first."""
        plan = self._plan
        directory = self.run.directory.below(f"{SHARDS_KEY}/{shard_key(index)}")
        replaced = _bytes_of_record(directory) if index in self._replacing else None
        earlier = None if replaced is None else _parsed(replaced, directory)

        def stays(existing: bytes) -> bool:
            """An intact record of this shard stays, unless this writer set out to replace it. A
            record that another writer has put there since is as good as ours.
            """
            other = _parsed(existing, directory)
            return (
                existing != replaced
                and other is not None
                and (other.plan, other.shard) == (plan.hash, index)
            )

        # a link or a file with the name of the shard is in the way; it is no part of a store
        self.run.directory.delete([f"{SHARDS_KEY}/{shard_key(index)}"])
        with attempt(directory) as stage:
            _write_rows(stage, plan.sites, self._encoder(content, earlier), encoders)
            tokens, quarantine = content.tables()
            self._check_tables(index, tokens, quarantine)
            stage.write(TOKENS_KEY, [encode_table(tokens)])
            if quarantine.num_rows:
                stage.write(QUARANTINE_KEY, [encode_table(quarantine)])
            record = CommitRecord(
                plan=plan.hash,
                shard=index,
                rows=tokens.num_rows,
                objects={},
                quarantine=quarantine.num_rows,
            )
            stage.commit(record, stays)

    def _encoder(
        self, content: ShardContent, earlier: CommitRecord | None
    ) -> Callable[[SiteSpec], Encoding]:
        """earlier: the record of the shard that is replaced, which is packed in the same way."""

        def encode(site: SiteSpec) -> Encoding:
            dtype, packing = self._plan.dtype_of(site), PACKINGS[0]
            if earlier is not None:
                metadata = earlier.objects.get(f"{HIDDEN_KEY}/{site.name}/{METADATA_KEY}")
                packing = packing_of(site_array(site, dtype, earlier.rows), metadata)
            spec = site_array(site, dtype, content.rows)
            chunks = content.chunks(site.name, chunk_rows(spec, packing))
            return Encoding(spec, chunks, packing)

        return encode

    def _check_tables(self, index: int, tokens: pa.Table, quarantine: pa.Table) -> None:
        """A shard that does not fit its plan is a bug of the caller, found before it is
        committed.
        """
        if not 0 <= index < self._plan.n_shards:
            raise ValueError(f"shard {index}: the plan has {self._plan.n_shards}")
        first, end = self._plan.shards[index : index + 2]
        if problems := tokens_problems(tokens, self._prompts, first, end):
            raise ValueError(f"shard {index}: tokens: " + "; ".join(problems))
        if problems := quarantine_problems(quarantine, tokens, first, end):
            raise ValueError(f"shard {index}: quarantine: " + "; ".join(problems))

    def _check_sites(self, index: int, content: "_InMemory") -> None:
        sites = self._plan.sites
        if set(content.hidden) != {site.name for site in sites}:
            raise ValueError(f"shard {index}: sites are {sorted(content.hidden)}")
        for site in sites:
            dtype = self._plan.dtype_of(site)
            if dtype == "float8_e4m3":  # its rows are rounded as they are packed
                dtype = self._plan.stored_dtype
            check_rows(site_array(site, dtype, content.rows), content.hidden[site.name])


def require_no_moments(plan: Plan) -> None:
    """InputError for a run with moments: its other shards need moments too, which are not made."""
    if plan.has_moments:
        raise InputError(
            f"run {plan.run_id} holds moments beside its rows. lpp-engine 0.2.0 is the last "
            "release that writes them: repair or resume the run with it, or capture it again.",
            kind=ErrorKind.UNSUPPORTED_VERSION,
        )


def check_columns(run: Run, prompts: pa.Table) -> None:
    """ConflictError if `prompts` and the run differ in an id or field column that both have: the
    texts are equal and the labels are not. The plan cannot tell, since it names no such column.
    """
    decided = {"text", *CONTINUATION_COLUMNS, *BRANCH_COLUMNS}  # by the fingerprints of the plan
    both = {*run.extra_columns.names} & {*prompts.schema.names} - decided
    held = run.prompts(*sorted(both))
    for name in sorted(both):
        ours, theirs = (table[name].to_pylist() for table in (prompts, held))
        differing = [i for i, pair in enumerate(zip(ours, theirs, strict=True)) if _differ(*pair)]
        if differing:
            first = differing[0]
            raise ConflictError(
                f"run {run.id} is in the store already with other values of {name} in "
                f"{len(differing)} prompts, such as {theirs[first]!r:.60} and not "
                f"{ours[first]!r:.60} of prompt {first}, and what a run holds stays. Give the "
                "field another name, or use another --store.",
                kind=ErrorKind.PLAN_DIFFERS,
            )


def _differ(ours: object, theirs: object) -> bool:
    return ours != theirs and not (ours != ours and theirs != theirs)  # noqa: PLR0124 (NaN)


def sweep_run(run: Run, *, beside: bool = False) -> None:
    """Remove every losing attempt of a run whose winner is known, unless another process is at work
    on it: a repair, or new fields, may win there. Costs a listing of each shard's directory.

    beside: though others have a heartbeat, such as workers that wait for more work.
    """
    known = {run.directory: run.commit.base}
    known |= {shard.directory: shard.record.base for shard in run.shards}
    listed = run.directory.map(lambda directory: directory.entries(), known)
    now = time.time()  # whoever begins after the listing has no attempt in it
    if not beside and any(one.alive(now) for one in writers(run.path / SHARDS_KEY)):
        return
    for (directory, base), entries in zip(known.items(), listed, strict=True):
        if not {entry.name for entry in entries} <= {COMMIT_KEY, SHARDS_KEY, base}:
            with contextlib.suppress(*QUIETLY):  # another writer may have won since
                now_in_force = open_checked(directory, CommitRecord).record.base
                sweep(directory, {now_in_force, SHARDS_KEY}, entries)
    run.directory.below(SHARDS_KEY).sweep()


@dataclass(frozen=True, slots=True)
class _InMemory:
    """Implements `ShardContent` for arrays that are in memory."""

    hidden: Mapping[str, Rows]
    tokens: pa.Table
    quarantine: pa.Table

    @property
    def rows(self) -> int:
        rows: int = self.tokens.num_rows
        return rows

    def chunks(self, site: str, chunk_rows: int) -> Iterator[Rows]:
        return row_chunks(self.hidden[site], chunk_rows)

    def tables(self) -> tuple[pa.Table, pa.Table]:
        return self.tokens, self.quarantine


def _bytes_of_record(directory: Objects) -> bytes | None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, FormatError):
        return directory.get(COMMIT_KEY, MAX_DOCUMENT_BYTES)
    return None


def _parsed(data: bytes, directory: Objects) -> CommitRecord | None:
    return undamaged_record(CommitRecord, data, str(directory.place / COMMIT_KEY))


def _write_rows(
    stage: Attempt,
    sites: Sequence[SiteSpec],
    encode: Callable[[SiteSpec], Encoding],
    encoders: Executor,
) -> None:
    """Write the Zarr group of rows, with an array for each site, several at a time."""

    def write_site(site: SiteSpec) -> None:
        encoding = encode(site)
        stage.write(f"{HIDDEN_KEY}/{site.name}/{METADATA_KEY}", [encoding.metadata])
        stage.write(f"{HIDDEN_KEY}/{site.name}/c/0/0", encoding, encoding.records)

    stage.write(f"{HIDDEN_KEY}/{METADATA_KEY}", [metadata_bytes(group_document())])
    under_way = [encoders.submit(write_site, site) for site in sites]
    try:
        for future in under_way:
            future.result()
    finally:  # when this returns, no thread still reads the data or writes into the folder
        for future in under_way:
            future.cancel()
        wait(under_way)


def _is_whole(directory: Objects) -> bool:
    """Whether the run is committed, and its record, plan and prompts are as committed."""
    try:
        run = open_checked(directory, CommitRecord)
        for key in run.record.objects:
            run.file(key)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except FormatError as error:
        if error.kind is ErrorKind.UNSUPPORTED_VERSION:
            raise
        return False
    return directory.place.name.endswith(run.record.plan[:8])  # not the record of another run


def _create_run(
    directory: Objects,
    plan: Plan,
    prompts: pa.Table,
    set_aside: pa.Table | None,
    damaged: bytes | None,
) -> bool:
    """Commit a run, instead of one with the record `damaged`; its shards stay. False if another
    writer of the same plan was first.
    """
    if wide := wide_integers(plan.document):
        raise InputError(
            f"the plan holds integers beyond 2^53: {'; '.join(wide)}. Not every reader of a store "
            "keeps them apart: choose smaller ones."
        )
    record = CommitRecord(
        format=plan.format, plan=plan.hash, shard=None, rows=0, objects={}, name=plan.name
    )
    try:
        with attempt(directory, keep=(SHARDS_KEY,)) as stage:
            stage.write(PLAN_KEY, [canonical_json(plan.document)])
            stage.write(PROMPTS_KEY, [encode_texts(prompts)])
            if set_aside is not None and set_aside.num_rows:
                stage.write(QUARANTINE_KEY, [encode_table(set_aside)])
            stage.commit(record, lambda old: old != damaged and bool(_parsed(old, directory)))
    except FileExistsError:
        return False
    return True
