"""Heads of runs: whether there are any, the matrix, and the arithmetic of products with it."""

from typing import Final

from lpp.analyze.engine.executor import Executor
from lpp.analyze.logits.products import arithmetic_of, place_of
from lpp.analyze.logits.tiles import rows_of_tile
from lpp.analyze.runs.keys import NO_STATISTICS
from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.commit_record import HeadRecord
from lpp.store.objects.locate import objects_at
from lpp.store.runs.read import Run
from lpp.store.shared.heads import HEADS, head_directories, head_name
from lpp.store.shared.kept_files import name_of
from lpp.store.shared.logits import Head

LOSSY_KL: Final = "0.007"
"""KL of the predictions from rows of `final` in bfloat16 to those from the same rows in
float8_e4m3, in nats, mean over 20,000 tokens of the demo: docs/how-to/stored.md."""


def why_no_logits(*runs: Run) -> str | None:
    """Why logits cannot be computed of each of `runs`, over one vocabulary, and what would help;
    None if they can. Reads the records of the heads, not their matrices.
    """
    for run in runs:
        where = f"run {run.id} of {run.directory.root}"
        if run.plan.logit_positions == "none":
            return f"{where} has {NO_STATISTICS}."
        if run.plan.model.source == "given":
            return f"{where} was collected by another program, without the head of its model."
        if "final" not in run.sites:
            return f"{where} does not hold `final`: capture again with --sites final."
        if not head_directories(objects_at(run.directory.root), run.plan):
            return (
                f"{where}: the store does not hold the head of its model. Repeat its "
                "`lpp-capture run` command with --keep-head yes."
            )
    a, *others = (run.plan.model.logits_width for run in runs)
    if b := next((width for width in others if width != a), None):
        return f"the models have {a:,} and {b:,} logits: they share no vocabulary to compare over."
    return None


def head_of(run: Run) -> Head:
    """The head of a run that has one (`why_no_logits`), its matrix in memory.

    FormatError for altered bytes, and for a head of another width.
    """
    head = run.head()
    assert head is not None, "asked without `why_no_logits`"
    if why := why_foreign(run, head):
        raise FormatError(
            f"{run.directory.root}/{HEADS.folder}/{head.name}: {not_its_head(run, why)}.",
            kind=ErrorKind.CORRUPT,
        )
    return head


def why_foreign(run: Run, head: Head) -> str:
    """Why `head` does not multiply the rows of `final` of `run`; empty if it does."""
    width = run.site("final").width
    if head.width == width:
        return ""
    return f"its matrix has {head.width} columns, final has {width}"


def not_its_head(run: Run, why: str) -> str:
    """What is wrong with the head that lies under the name of that of `run`, and what to do."""
    return (
        f"{why}, so it is not the head of run {run.id}. Remove that directory and repeat the "
        "`lpp-capture run` command"
    )


def place_for(run: Run, executor: Executor) -> str:
    """Where `executor` multiplies with the head of `run` (`products.place_of`)."""
    return place_of(_record(run).dtype, cluster=executor.remote)


def setting_of(runs: tuple[Run, Run], executor: Executor, *draw: object) -> str:
    """Name of everything but the runs that decides the bits of `two_runs.logit_columns`."""
    heads = (
        part
        for head in map(_record, runs)
        for part in (head.matrix, head.dtype, head.divisor, head.scale, head.softcap)
    )
    places = (place_for(run, executor) for run in runs)
    return name_of(*heads, *places, rows_of_tile(runs[0].plan.model.logits_width), *draw)


def arithmetic(runs: tuple[Run, Run], executor: Executor) -> str:
    """One line: the library that multiplies, and the dtypes it rounds to.

    It names rows that were stored in another dtype than the model's: the model computed its own
    logits from other rows.
    """
    lines = []
    for run in runs:
        dtype, stored = _record(run).dtype, run.plan.dtype_of(run.site("final"))
        other = "" if stored == dtype else f", of rows stored as {stored}"
        lines.append(arithmetic_of(place_for(run, executor), dtype) + other)
    return "; ".join(dict.fromkeys(lines))


def _record(run: Run) -> HeadRecord:
    head = HEADS.open(objects_at(run.directory.root), head_name(run.plan))
    assert head is not None, "asked without `why_no_logits`"
    return head.record
