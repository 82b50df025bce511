"""Add fields to the prompts of a committed run, labels that were not at hand when it began; and
give it another name.

The record of the run is replaced by one whose `prompts.arrow` has more columns, or that has another
`name` (SPEC.md, section 6, step 4). Plan, shards and every number stay.
"""

from dataclasses import replace

import pyarrow as pa

from lpp.store.committed.checked import open_checked
from lpp.store.committed.commit import attempt
from lpp.store.errors import ConflictError, ErrorKind
from lpp.store.format.commit_record import CommitRecord, undamaged_record
from lpp.store.format.keys import COMMIT_KEY, MAX_DOCUMENT_BYTES, PROMPTS_KEY, SHARDS_KEY
from lpp.store.format.prompt_columns import column_problems
from lpp.store.format.tables import encode_texts
from lpp.store.runs.heartbeat import at_work
from lpp.store.runs.read import Run
from lpp.store.runs.write import check_columns


def add_fields(run: Run, fields: pa.Table) -> tuple[Run, tuple[str, ...]]:
    """The run with these columns of its prompts, and the names of those that it lacked.

    fields: (count, k), columns `id` or `field.<name>` of `lpp.store.format.prompt_columns`, a row
    for each prompt in order. Costs a copy of `prompts.arrow`; nothing is written if the run has all
    of them. A process that has the run open reads the old columns, as long as it does not open it
    again.

    Raises ConflictError where the run has other values in one of the columns (PLAN_DIFFERS), or
    while another process changes its record (IN_USE); ValueError for columns that a prompt may not
    have.
    """
    if problems := column_problems(fields.schema):
        raise ValueError("; ".join(problems))
    if fields.num_rows != run.plan.prompts.count:
        raise ValueError(f"{fields.num_rows} rows for {run.plan.prompts.count} prompts")
    before = run.directory.get(COMMIT_KEY, MAX_DOCUMENT_BYTES)
    run = Run(run.path)  # as it is now
    check_columns(run, fields)
    held = run.extra_columns.names
    new = tuple(name for name in fields.column_names if name not in held)
    if not new:
        return run, new
    prompts = run.prompts(*held)
    for name in new:
        prompts = prompts.append_column(fields.schema.field(name), fields[name])
    _replace_record(run, before, run.commit, prompts)
    return Run(run.path), new


def rename(run: Run, name: str) -> None:
    """Give the run this name, if it has another. Other runs of the store may have it: the caller
    looks. Raises ConflictError(IN_USE) while another process changes the record.
    """
    before = run.directory.get(COMMIT_KEY, MAX_DOCUMENT_BYTES)
    run = Run(run.path)
    if (record := run.commit).name != name:
        prompts = run.prompts(*run.extra_columns.names)
        _replace_record(run, before, replace(record, name=name), prompts)


def _replace_record(run: Run, before: bytes, record: CommitRecord, prompts: pa.Table) -> None:
    """Commit `record` and `prompts` in place of the record with the bytes `before`."""
    directory, checked = run.directory, open_checked(run.directory, CommitRecord)
    where = str(directory.place / COMMIT_KEY)

    def stays(existing: bytes) -> bool:
        return existing != before and undamaged_record(CommitRecord, existing, where) is not None

    try:
        sign = at_work(run.path / SHARDS_KEY, "label")
        with sign, attempt(directory, keep=(SHARDS_KEY,)) as stage:
            for key in checked.record.objects:
                data = (
                    encode_texts(prompts) if key == PROMPTS_KEY else checked.file(key).read_bytes()
                )
                stage.write(key, [data])
            stage.commit(record, stays)
    except FileExistsError:
        raise ConflictError(
            f"run {run.id}: another process changed it meanwhile. Repeat the same command.",
            kind=ErrorKind.IN_USE,
        ) from None
