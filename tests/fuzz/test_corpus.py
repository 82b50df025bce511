"""Everything that fuzzing found worth keeping is read again: no atheris needed."""

import zipfile
from pathlib import Path

import pytest

from tests.fuzz import corpus
from tests.fuzz.corpus import ARCHIVES, archive, keep_inputs, kept_inputs
from tests.fuzz.seeds import seeds
from tests.fuzz.targets import READERS, TARGETS


def test_every_target_has_seeds_and_an_archive() -> None:
    assert {path.name for path in ARCHIVES.iterdir()} == {f"{name}.zip" for name in TARGETS}
    assert set(seeds()) == set(TARGETS)
    assert sum(path.stat().st_size for path in ARCHIVES.iterdir()) < 1 << 20


def test_an_archive_keeps_what_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "ARCHIVES", tmp_path)
    assert kept_inputs("plan") == {}
    keep_inputs("plan", {"b": b"second"})
    keep_inputs("plan", {"a": b"first"})
    once = archive("plan").read_bytes()
    keep_inputs("plan", {"a": b"first"})
    assert archive("plan").read_bytes() == once
    assert kept_inputs("plan") == {"a": b"first", "b": b"second"}
    with zipfile.ZipFile(archive("plan")) as opened:
        assert opened.namelist() == ["a", "b"]
    assert [path.name for path in tmp_path.iterdir()] == ["plan.zip"]


def test_seeds_are_what_their_readers_take() -> None:
    for name, inputs in seeds().items():
        for data in inputs:
            if name not in ("source", "document"):  # a record without its table; any document
                READERS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_kept_inputs_are_read_or_refused(name: str) -> None:
    inputs = kept_inputs(name)
    assert inputs
    for entry, data in inputs.items():
        try:
            TARGETS[name](data)
        except BaseException as error:
            error.add_note(f"The input: entry {entry} of {archive(name)}")
            raise
