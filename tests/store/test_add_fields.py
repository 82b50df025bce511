"""Fields that are added to the prompts of a committed run."""

from pathlib import Path

import pyarrow as pa
import pytest
from on_disk import on_disk
from s3_server import S3
from small_capture import Capture
from stored import stored_objects

from lpp.store import Run, RunWriter, create_store, open_store
from lpp.store.errors import ConflictError, ErrorKind, FormatError
from lpp.store.format.run_names import plan_name
from lpp.store.format.tables import encode_texts
from lpp.store.runs.add_fields import add_fields, rename

LABELS = pa.table({"field.label": pa.array(["a", None, "b", "a"])})
MORE = pa.table({"field.n": pa.array([3, 1, None, 2**62]), "field.label": LABELS["field.label"]})


@pytest.fixture
def run(capture: Capture, tmp_path: Path) -> Run:
    return capture.write(tmp_path / "store")


def test_prompts_have_them_and_nothing_else_has_changed(run: Run, capture: Capture) -> None:
    shards = {k: v for k, v in stored_objects(run.path).items() if k.startswith("shards/")}
    labelled, new = add_fields(run, LABELS)
    assert new == ("field.label",)
    assert labelled.prompts("field.label")["field.label"].to_pylist() == ["a", None, "b", "a"]
    assert labelled.prompts().equals(capture.prompts)
    assert labelled.plan == run.plan
    again, both = add_fields(labelled, MORE)
    assert (again.extra_columns.names, both) == (["field.label", "field.n"], ("field.n",))
    after = stored_objects(run.path)
    assert {k: v for k, v in after.items() if k.startswith("shards/")} == shards
    assert again.verify() == []
    assert len(run.directory.entries()) == 3  # the record, its objects, the shards
    assert capture.write(run.directory.root).extra_columns.names == ["field.label", "field.n"]


def test_a_run_that_has_them_is_left_alone(run: Run) -> None:
    labelled, _ = add_fields(run, LABELS)
    before = stored_objects(run.path)
    assert add_fields(labelled, LABELS)[1] == ()
    assert stored_objects(run.path) == before


def test_other_values_are_refused(run: Run) -> None:
    add_fields(run, LABELS)
    before = stored_objects(run.path)
    other = pa.table({"field.label": pa.array(["a", "b", "b", "a"])})
    with pytest.raises(ConflictError, match=r"other values of field\.label in 1 prompts"):
        add_fields(run, other)
    assert stored_objects(run.path) == before


def test_what_no_prompt_may_have_is_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="none of the format"):
        add_fields(run, LABELS.rename_columns(["label"]))
    with pytest.raises(ValueError, match="2 rows for 4 prompts"):
        add_fields(run, LABELS.slice(0, 2))


def test_of_two_writers_at_once_the_second_is_told(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = "lpp.store.runs.add_fields.encode_texts"

    def labelled_meanwhile(table: pa.Table) -> bytes:
        monkeypatch.setattr(encoder, encode_texts)
        add_fields(run, pa.table({"field.first": pa.array([1, 2, 3, 4])}))
        return encode_texts(table)

    monkeypatch.setattr(encoder, labelled_meanwhile)
    with pytest.raises(ConflictError, match="another process changed it meanwhile") as caught:
        add_fields(run, LABELS)
    assert caught.value.kind is ErrorKind.IN_USE
    assert Run(run.path).extra_columns.names == ["field.first"]
    assert Run(run.path).verify() == []
    assert add_fields(run, LABELS)[0].extra_columns.names == ["field.first", "field.label"]


def test_a_run_takes_another_name_and_keeps_all_else(capture: Capture, tmp_path: Path) -> None:
    unnamed = capture.write(tmp_path / "unnamed")
    record = (on_disk(unnamed.path) / "COMMIT.json").read_bytes()
    assert b'"name"' not in record
    assert unnamed.name == plan_name(capture.plan)
    run = capture.write(tmp_path / "store")
    shards = run.fingerprint
    for name in ("first", "second"):
        rename(run, name)
        run = open_store(tmp_path / "store").run(name.upper())
        assert (run.name, run.plan.name, run.commit.name) == (name, name, name)
        assert run.verify() == []
    assert (run.id, run.plan.hash) == (unnamed.id, unnamed.plan.hash)
    assert run.plan.document == unnamed.plan.document
    assert (run.fingerprint, run.prompts()) == (shards, unnamed.prompts())
    before = (on_disk(run.path) / "COMMIT.json").read_bytes()
    rename(run, "second")  # it has the name
    assert (on_disk(run.path) / "COMMIT.json").read_bytes() == before
    assert add_fields(run, LABELS)[0].name == "second"


def test_a_reader_whose_objects_were_replaced_is_told_so(capture: Capture, tmp_path: Path) -> None:
    run = capture.write(tmp_path / "store")
    half_read, gone = Run(run.path), Run(run.path)
    assert half_read.prompts().equals(capture.prompts)  # its files are known, and not held open
    assert gone.commit.base
    add_fields(run, LABELS)
    for reader, read in ((half_read, half_read.prompts), (gone, lambda: gone.plan)):
        with pytest.raises(FormatError, match="another process changed it meanwhile") as caught:
            read()
        assert caught.value.kind is ErrorKind.IN_USE
        assert str(reader.path) in str(caught.value)
    run = Run(run.path)
    (on_disk(run.path) / run.commit.base / "plan.json").unlink()
    with pytest.raises(FormatError) as caught:
        Run(run.path).plan  # noqa: B018
    assert caught.value.kind is ErrorKind.CORRUPT


def test_a_writer_goes_on_beside_it(capture: Capture, tmp_path: Path) -> None:
    writer = RunWriter(create_store(tmp_path / "s").path, capture.plan, capture.prompts)
    writer.write_shard(0, *capture.shard(0))
    add_fields(writer.run, LABELS)
    for index in range(1, capture.plan.n_shards):
        writer.write_shard(index, *capture.shard(index))
    run = open_store(tmp_path / "s").runs[capture.plan.run_id]
    assert run.extra_columns.names == ["field.label"]
    assert run.verify() == []


@pytest.mark.slow
def test_in_a_bucket(capture: Capture, s3: S3) -> None:
    run = capture.write(s3.url)
    labelled, _ = add_fields(run, LABELS)
    assert labelled.extra_columns.names == ["field.label"]
    assert labelled.verify() == []
