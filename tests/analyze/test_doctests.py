"""The examples in the docstrings run, and give what they show."""

import doctest
import importlib

import pytest

MODULES = (
    *("bands", "keys", "lazy", "moments", "profile"),
    *("render", "select", "spectrum"),
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(f"lpp.analyze.{name}")
    failed, attempted = doctest.testmod(module)
    assert attempted
    assert not failed
