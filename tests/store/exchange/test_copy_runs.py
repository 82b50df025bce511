"""Runs copied into another store: whole or with fewer sites and fields, of every format version."""

from pathlib import Path

import pytest
from golden_stores import READ, records_of

from lpp.store import Run, create_store, open_store
from lpp.store.errors import FormatError
from lpp.store.exchange.copy_runs import copy_run, fields_of
from lpp.store.format.keys import COMMIT_KEY
from lpp.store.shared.verify import verify_shared

RUNS = {
    f"{version.name}-{run.id}": run
    for version in READ
    for run in open_store(version).runs.values()
    if not run.missing_shards
}


def copied(run: Run, root: Path, sites: tuple[str, ...], fields: tuple[str, ...]) -> Run:
    return copy_run(run, create_store(root).objects, sites, fields)


def path_of(run: Run, key: str = "") -> Path:
    return Path(str(run.path)) / key


def rows_of(run: Run, site: str) -> list[bytes]:
    return [block.values.tobytes() for block in run.blocks(site, dtype="stored")]


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_a_whole_run_keeps_its_id_and_every_byte(run: Run, tmp_path: Path) -> None:
    copy = copied(run, tmp_path / "copy", run.sites, fields_of(run))
    assert copy.id == run.id
    assert copy.verify() == []
    assert verify_shared(tmp_path / "copy") == []
    assert records_of(copy) == records_of(run)
    assert path_of(copy, COMMIT_KEY).read_bytes() == path_of(run, COMMIT_KEY).read_bytes()


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_fewer_sites_are_the_run_that_a_capture_of_them_makes(run: Run, tmp_path: Path) -> None:
    last = run.sites[-1:]
    copy = copied(run, tmp_path / "copy", last, ())
    assert copy.verify() == []
    assert (copy.id == run.id) == (len(run.sites) == 1)
    assert copy.sites == last
    assert fields_of(copy) == ()
    assert copy.prompts().equals(run.prompts())
    assert copy.tokens().to_table().equals(run.tokens().to_table())
    assert rows_of(copy, last[0]) == rows_of(run, last[0])
    held = {key for shard in copy.shards for key in shard.record.objects}
    assert any(key.startswith("moments.") for key in held) == copy.plan.has_moments
    assert not (copy.plan.has_moments and copy.id != run.id)


def with_fields() -> Run:
    return next(run for run in RUNS.values() if len(fields_of(run)) > 1)


def test_fields_that_are_not_named_leave_with_the_next_copy(tmp_path: Path) -> None:
    run = with_fields()
    first, second = fields_of(run)[:2]
    root = tmp_path / "copy"
    for fields in ((first, second), (second,), (second,)):
        copy = copied(run, root, run.sites, fields)
        assert fields_of(copy) == fields
        assert copy.verify() == []
        names = {path.name for path in path_of(copy).iterdir()}
        assert names == {COMMIT_KEY, "shards", copy.commit.base}


def test_a_copy_that_was_stopped_goes_on(tmp_path: Path) -> None:
    run = with_fields()
    whole = copied(run, tmp_path / "whole", run.sites[-1:], ())
    part = copied(run, tmp_path / "part", run.sites[-1:], ())
    shard = path_of(part, "shards/00000")
    (shard / COMMIT_KEY).unlink()
    half = next(shard.rglob("tokens.arrow"))
    half.write_bytes(half.read_bytes()[:100])
    again = copied(run, tmp_path / "part", run.sites[-1:], ())
    assert again.verify() == []
    assert records_of(again) == records_of(whole)


def test_an_altered_object_is_named_and_not_copied(tmp_path: Path) -> None:
    run = with_fields()
    broken = copied(run, tmp_path / "broken", run.sites, ())
    tokens = next(path_of(broken, "shards/00000").rglob("tokens.arrow"))
    tokens.write_bytes(tokens.read_bytes()[:-1] + b"x")
    with pytest.raises(FormatError, match=r"tokens\.arrow: altered"):
        copied(Run(broken.path), tmp_path / "copy", run.sites, ())
