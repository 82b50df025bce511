"""Heads: the last layer, which maps rows of `final` to logits, SPEC.md section 10.

A head is a matrix and the steps after the product. With the stored rows of `final` it gives the
logits of every token again, without the model: the distribution over all V tokens, of which a run
stores only eight numbers. `logits.Head` computes them.
"""

import math
import re
from collections.abc import Iterator
from typing import Final

from lpp.store.errors import ErrorKind, FormatError
from lpp.store.format.commit_record import HeadModel, HeadRecord
from lpp.store.format.documents import document_hash, to_document
from lpp.store.format.keys import HEADS_KEY
from lpp.store.format.plan import Plan
from lpp.store.objects.locate import objects_at
from lpp.store.objects.protocol import Objects
from lpp.store.shared.directory import SharedDirectory, SharedKind
from lpp.store.shared.logits import Head, HeadContent, Steps
from lpp.store.shared.matrices import MATRICES, NAME_DIGITS, commit_matrix, read_matrix

_MATRIX: Final = re.compile(r"[0-9a-f]{16}")
_DECIMAL: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?")


def head_model(plan: Plan) -> HeadModel:
    """The parts of a plan that decide its head."""
    return HeadModel(
        weights=plan.model.weights,
        untrained_seed=plan.model.untrained_seed,
        dtype=plan.compute.dtype,
        quantization=plan.compute.quantization,
    )


def head_name(plan: Plan) -> str:
    """Name of the directory under `heads/` for the runs of the plan's model."""
    return _name(head_model(plan))


def head_directories(root: Objects, plan: Plan) -> tuple[str, ...]:
    """The directories of the head of the plan's model and of its matrix, relative to the store.

    Empty unless both are committed. Compares no object. Raises FormatError(UNSUPPORTED_VERSION) if
    a newer release wrote one.
    """
    name = head_name(plan)
    if not HEADS.holds(root, name):
        return ()
    head = HEADS.open(root, name)
    if head is None or any(head_problems(head)):
        return ()
    return f"{HEADS.folder}/{name}", f"{MATRICES.folder}/{head.record.matrix}"


def commit_head(root: Objects, plan: Plan, content: HeadContent) -> str:
    """Store the head of the plan's model unless the store has it; its matrix first, unless an equal
    one exists. Returns the name of the matrix.

    Raises ValueError for a head that does not give the plan's logits, and what `SharedKind.commit`
    raises.
    """
    rows, width = content.matrix.weight.shape
    if rows != plan.model.logits_width:
        raise ValueError(f"a head of {rows} rows, the logits have {plan.model.logits_width}")
    steps = content.steps
    record = HeadRecord(
        model=head_model(plan),
        matrix=commit_matrix(root, content.matrix),
        dtype=content.matrix.dtype,
        rows=rows,
        width=width,
        divisor=_decimal(steps.divisor),
        scale=_decimal(steps.scale),
        softcap=_decimal(steps.softcap),
        objects={},
    )
    HEADS.commit(root, head_name(plan), record)
    return record.matrix


def open_head(root: Objects, plan: Plan) -> Head | None:
    """The head of the plan's model, its matrix in memory; None unless the store has both.

    Raises FormatError for altered bytes, with the next command, and if a newer release wrote it.
    """
    head = HEADS.open(root, head_name(plan))
    if head is None:
        return None
    problems = _record_problems(head)
    matrix = None if problems else MATRICES.open(root, head.record.matrix)
    if matrix is None and not problems:
        return None
    if problems := problems or list(head_problems(head)):
        raise FormatError(
            f"{head.path}: {'; '.join(problems)}. {head.remedy}", kind=ErrorKind.CORRUPT
        )
    assert matrix is not None
    record = head.record
    steps = Steps(
        divisor=_number(record.divisor),
        scale=_number(record.scale),
        softcap=_number(record.softcap),
    )
    try:
        content = HeadContent(matrix=read_matrix(matrix), steps=steps)
    except FormatError as error:
        raise FormatError(f"{error} {head.remedy}", kind=error.kind) from None
    return Head(content, name=head.path.name)


def head_problems(found: SharedDirectory[HeadRecord]) -> Iterator[str]:
    """Problems of a head whose bytes are as committed."""
    record = found.record
    if problems := _record_problems(found):
        yield from problems
        return
    try:
        matrix = MATRICES.open(objects_at(found.directory.root), record.matrix)
    except FormatError as error:
        yield str(error)
        return
    if matrix is None:
        yield f"its matrix {MATRICES.folder}/{record.matrix} is missing"
        return
    shape = (record.dtype, record.rows, record.width)
    if (matrix.record.dtype, matrix.record.rows, matrix.record.width) != shape:
        yield f"its matrix {MATRICES.folder}/{record.matrix} has another dtype or shape"


HEADS: Final = SharedKind(folder=HEADS_KEY, record=HeadRecord, problems=head_problems)


def _record_problems(head: SharedDirectory[HeadRecord]) -> list[str]:
    """Why a record does not belong to the head of its name."""
    record = head.record
    problems = []
    if _name(record.model) != head.path.name:
        problems.append(f"it is the head of another model, {_name(record.model)}")
    if not _MATRIX.fullmatch(record.matrix):
        problems.append(f"{record.matrix[:40]!r} is no name of a matrix")
    if min(record.rows, record.width) < 1:
        problems.append(f"{record.rows} rows of {record.width} columns")
    for step in ("divisor", "scale", "softcap"):
        text = getattr(record, step)
        if text is not None and not (_DECIMAL.fullmatch(text) and 0 < abs(float(text)) < math.inf):
            problems.append(f"{step} is {text[:40]!r}")
    return problems


def _name(model: HeadModel) -> str:
    return document_hash(to_document(model))[:NAME_DIGITS]


def _decimal(value: float | None) -> str | None:
    """The shortest decimal that reads back as `value`.

    >>> _decimal(30.0), _decimal(0.0625), _decimal(None)
    ('30', '0.0625', None)
    """
    return None if value is None else repr(float(value)).removesuffix(".0")


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)
