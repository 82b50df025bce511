"""The examples in the docstrings run, and give what they show."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["moments", "profile", "schedule", "spectrum"])
def test_examples(name: str) -> None:
    module = importlib.import_module(f"lpp.analyze.{name}")
    failed, attempted = doctest.testmod(module)
    assert attempted
    assert not failed
