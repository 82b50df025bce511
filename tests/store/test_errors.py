"""Errors: ours and the built-in one that a caller would catch, in this process and another."""

import pickle

import pytest

from lpp.store.errors import (
    ConflictError,
    ErrorKind,
    FormatError,
    InputError,
    LppError,
    MachineError,
    NotFoundError,
)

BUILT_IN = {
    InputError: ValueError,
    NotFoundError: KeyError,
    FormatError: ValueError,
    ConflictError: OSError,
    MachineError: OSError,
}


@pytest.mark.parametrize("kind", BUILT_IN)
def test_an_error_is_ours_and_a_built_in_one(kind: type[LppError]) -> None:
    error = kind("no site 'x'", kind=ErrorKind.NOT_FOUND)
    assert isinstance(error, LppError)
    assert isinstance(error, BUILT_IN[kind])
    assert str(error) == "no site 'x'"  # KeyError would quote it once more
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.kind) == (kind, str(error), ErrorKind.NOT_FOUND)


def test_a_name_that_is_not_there_is_a_bad_input_as_well() -> None:
    assert issubclass(NotFoundError, InputError)
    assert NotFoundError("none").kind is ErrorKind.NOT_FOUND
