"""Values of a field that the prompts of a run carry: their clusters, groups or labels."""

from collections.abc import Sequence

from lpp.analyze.runs.select import nearest
from lpp.store.errors import ErrorKind, InputError
from lpp.store.format.prompt_columns import FIELD_PREFIX
from lpp.store.runs.read import Run

ID = "id"
"""The one field whose column has no prefix."""


def prompt_values(run: Run, field: str, *, option: str = "--cluster") -> Sequence[object]:
    """(count,) the value of `field` of each prompt of the plan; None where a prompt has none.

    `cluster_codes` of numerics/statistics turns the values into numbers of clusters. option: what
    names the field on a command line. InputError for a field that the prompts do not carry.
    """
    names = {
        name.removeprefix(FIELD_PREFIX): name
        for name in run.extra_columns.names
        if name == ID or name.startswith(FIELD_PREFIX)
    }
    if field not in names:
        raise InputError(
            f"{option} {field}: the prompts of run {run.id} have no such field; "
            f"{nearest(field, sorted(names))} Add it: lpp-capture label STORE {run.id} --from FILE "
            f"--fields {field}, with the file that was captured.",
            kind=ErrorKind.NOT_FOUND,
        )
    values: list[object] = run.prompts(names[field])[names[field]].to_pylist()
    return values
