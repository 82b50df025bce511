"""Copy runs into another store, whole or with fewer sites and fields.

Every object is compared with its record, then copied as it is: nothing is unpacked. A run with
fewer sites, or fewer values by token, has the plan that a capture of these has, so another id; a
run with fewer fields of prompts keeps its id. Only `plan.json`, `prompts.arrow` and the records are
made again. A copy that was stopped goes on, and the same copy made twice has
the same bytes.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from lpp.store.committed.checked import Checked, open_checked
from lpp.store.errors import ConflictError, ErrorKind, InputError
from lpp.store.format.commit_record import (
    CommitRecord,
    ObjectRecord,
    Record,
    checksum,
    record_bytes,
    sealed,
    undamaged_record,
)
from lpp.store.format.documents import canonical_json
from lpp.store.format.keys import (
    COMMIT_KEY,
    HIDDEN_KEY,
    MAX_DOCUMENT_BYTES,
    MOMENTS,
    PLAN_KEY,
    PROMPTS_KEY,
    RUNS_KEY,
    SHARDS_KEY,
    shard_key,
)
from lpp.store.format.plan import Plan
from lpp.store.format.prompt_columns import FIELD_PREFIX, LOSS_MASK, TOKEN_PREFIX
from lpp.store.format.tables import encode_texts
from lpp.store.objects.locate import objects_at
from lpp.store.objects.place import Place
from lpp.store.objects.protocol import Objects, Source
from lpp.store.progress import SILENT, Progress
from lpp.store.runs.read import Run
from lpp.store.runs.shards import Shard
from lpp.store.shared.heads import HEADS, head_name
from lpp.store.shared.matrices import MATRICES
from lpp.store.shared.vocabularies import VOCABULARIES, vocabulary_name

Made: TypeAlias = Mapping[str, bytes]
"""Objects that are not copied but made, by key."""


def plan_of_copy(run: Run, sites: Collection[str], fields: Collection[str]) -> Plan:
    """The plan of a copy of `run` with those of its sites that are in `sites`, and those of its
    values by token that `copy_run` copies.

    Raises InputError where shards are missing, or the run has none of these sites.
    """
    if run.missing_shards:
        raise InputError(
            f"run {run.id} lacks {len(run.missing_shards)} of {run.plan.n_shards} shards. Repeat "
            "the command that captures it, or name other runs.",
            kind=ErrorKind.NOT_FOUND,
        )
    kept = tuple(site for site in run.plan.sites if site.name in sites)
    prompts = run.plan.prompts
    columns = tuple(name for name in prompts.token_columns if _is_copied(name, fields))
    if (kept, columns) == (run.plan.sites, prompts.token_columns):
        return run.plan
    if not kept:
        raise InputError(
            f"run {run.id} has none of these sites; it has {', '.join(run.sites)}.",
            kind=ErrorKind.NOT_FOUND,
        )
    return replace(run.plan, sites=kept, prompts=replace(prompts, token_columns=columns))


def fields_of(run: Run) -> tuple[str, ...]:
    """What the prompts of a run say beside their texts: `id`, the names of its fields, and
    `token.NAME` of values by token, the loss mask excepted.
    """
    fields = map(_field, run.extra_columns.names)
    return tuple(dict.fromkeys(field for field in fields if field is not None))


def copy_run(
    run: Run,
    root: Objects,
    sites: Collection[str],
    fields: Collection[str],
    *,
    progress: Progress = SILENT,
) -> Run:
    """Copy `run`, and the head and the vocabulary that it uses, into the store at `root`.

    sites: those to copy. fields: likewise, of `fields_of`. Advances by one for each shard. Returns
    the copy.

    Raises what `plan_of_copy` does; FormatError that names an altered object; ConflictError(IN_USE)
    if another process writes the same copy. One process at a time may write a copy.
    """
    plan = plan_of_copy(run, sites, fields)
    _copy_shared(run.directory.root, root, run.plan)
    directory = root.below(f"{RUNS_KEY}/{plan.run_id}")
    checked = open_checked(run.directory, CommitRecord)
    made: dict[str, bytes] = {}
    record = checked.record
    if plan is not run.plan:
        made[PLAN_KEY] = canonical_json(plan.document)
        record = replace(record, plan=plan.hash, format=plan.format)
    kept = [name for name in run.extra_columns.names if _is_copied(name, fields)]
    if kept != run.extra_columns.names:
        made[PROMPTS_KEY] = encode_texts(run.prompts(*kept))
    copy_directory(checked, directory, record, made)
    for shard in run.shards:
        target = directory.below(f"{SHARDS_KEY}/{shard_key(shard.index)}")
        copy_directory(shard, target, _shard_of(shard, run.plan, plan))
        progress.advance()
    return Run(directory.place)


def _field(column: str) -> str | None:
    """What a column of prompts says of them beside their texts; None: something else, and the loss
    mask, without which a copy would train on every token.
    """
    is_field = column == "id" or column.startswith((FIELD_PREFIX, TOKEN_PREFIX))
    return column.removeprefix(FIELD_PREFIX) if is_field and column != LOSS_MASK else None


def _is_copied(column: str, fields: Collection[str]) -> bool:
    field = _field(column)
    return field is None or field in fields


def _shard_of(shard: Shard, old: Plan, plan: Plan) -> CommitRecord:
    """The record of the copy of a shard."""
    if plan is old:
        return shard.record
    gone = {site.name for site in old.sites} - {*plan.site_names}
    # a plan that is made again names no moments
    begins = (*MOMENTS, *(f"{HIDDEN_KEY}/{name}/" for name in gone))
    objects = {k: v for k, v in shard.record.objects.items() if not k.startswith(begins)}
    return replace(shard.record, plan=plan.hash, objects=objects)


def _copy_shared(source: Place, root: Objects, plan: Plan) -> None:
    """Copy the vocabulary, the matrix and the head of a plan, those that the source has."""
    store = objects_at(source)
    head = HEADS.open(store, head_name(plan))
    names: list[tuple[Any, str]] = [(VOCABULARIES, vocabulary_name(plan.tokenizer.fingerprint))]
    if head is not None:
        names += [(MATRICES, head.record.matrix), (HEADS, head.path.name)]
    for kind, name in names:
        if (shared := kind.open(store, name)) is not None:
            copy_directory(shared, root.below(f"{kind.folder}/{name}"), shared.record)


def copy_directory(
    source: Checked[Record], target: Objects, record: Record, made: Made | None = None
) -> None:
    """Copy a committed directory as `record` says: the source's own, or one that differs from it.

    made: objects in place of the source's. The attempt of another record is named after what the
    record holds, so that equal copies have equal names.
    """
    made = made or {}
    objects = {
        key: ObjectRecord.of([made[key]]) if key in made else recorded
        for key, recorded in record.objects.items()
    }
    record = replace(record, objects=objects)  # type: ignore[type-var]
    if record == source.record:
        data = source.directory.get(COMMIT_KEY, MAX_DOCUMENT_BYTES)
    else:
        unnamed = sealed(replace(record, base=""))  # type: ignore[type-var]
        record = replace(record, base=checksum(unnamed.self_xxh3_128.encode())[:16])  # type: ignore[type-var]
        data = record_bytes(record)
    there, version = b"", None
    if target.exists(COMMIT_KEY):
        there, version = target.get_version(COMMIT_KEY, MAX_DOCUMENT_BYTES)
    if there == data:
        return
    base = target.below(record.base)
    base.delete(objects)  # what a copy that was stopped left
    for key in objects:
        if key in made:
            base.write(key, [made[key]])
            continue
        with source.compared(key) as opened:
            base.write(key, _pieces(opened, source.objects.piece_bytes))
    base.flush(objects)
    put = (
        target.put_over(COMMIT_KEY, data, version) if version else target.put_new(COMMIT_KEY, data)
    )
    if not put:
        raise ConflictError(
            f"{target.place}: another process writes it. Repeat the same command.",
            kind=ErrorKind.IN_USE,
        )
    old = undamaged_record(type(record), there, "") if there else None
    if old is not None and old.base != record.base:
        target.delete_below(old.base)


def _pieces(source: Source, size: int) -> Iterator[memoryview]:
    for offset in range(0, source.size, size):
        piece = memoryview(bytearray(min(size, source.size - offset)))
        source.read_into(piece, offset)
        yield piece
