"""Reading `prompts.arrow` of a committed run, SPEC.md section 5: only the requested columns."""

import pyarrow as pa

from lpp.store.committed.checked import Checked
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.commit_record import CommitRecord
from lpp.store.format.keys import ADVICE, PROMPTS_KEY
from lpp.store.format.plan import Plan
from lpp.store.format.prompt_columns import column_problems, is_prompt_column
from lpp.store.format.tables import PROMPTS_SCHEMA, table_schema


def extra_columns(checked: Checked[CommitRecord]) -> pa.Schema:
    """The columns of prompts beyond `PROMPTS_SCHEMA`.

    FormatError(CORRUPT) for a column of the format that is there twice or has another type.
    Columns that the format does not name are ignored.
    """
    with checked.refusing(PROMPTS_KEY):
        schema = table_schema(checked.file(PROMPTS_KEY))
    extra = pa.schema([field for field in schema if is_prompt_column(field.name)])
    if problems := column_problems(extra):
        where = checked.objects_dir / PROMPTS_KEY
        raise FormatError(
            f"{where}: not the table it should be ({'; '.join(problems)}). {ADVICE}",
            kind=ErrorKind.CORRUPT,
        )
    return extra


def read_prompts(
    checked: Checked[CommitRecord], plan: Plan, schema: pa.Schema = PROMPTS_SCHEMA
) -> pa.Table:
    """The columns of `schema`, (count, n). FormatError(CORRUPT) if the table lacks one."""
    # texts and fields may have any length
    return checked.table(PROMPTS_KEY, schema, rows=plan.prompts.count, extra=None)
