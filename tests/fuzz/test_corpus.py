"""Everything that fuzzing found worth keeping is read again: no atheris needed."""

from pathlib import Path

import pytest

from tests.fuzz.seeds import seeds
from tests.fuzz.targets import READERS, TARGETS

CORPUS = Path(__file__).with_name("corpus")


def test_every_target_has_seeds_and_a_corpus() -> None:
    folders = {path.name for path in CORPUS.iterdir()}
    assert folders == set(TARGETS) == set(seeds())
    total = sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file())
    assert total < 1 << 20


def test_seeds_are_what_their_readers_take() -> None:
    for name, inputs in seeds().items():
        for data in inputs:
            if name not in ("source", "document"):  # a record without its table; any document
                READERS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs_are_read_or_refused(name: str) -> None:
    inputs = sorted((CORPUS / name).iterdir())
    assert inputs
    for path in inputs:
        TARGETS[name](path.read_bytes())
