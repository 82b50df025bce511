"""Prompts that a shard sets aside keep their rows; readers leave them out, `verify` knows them."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from on_disk import on_disk
from sealed import reseal
from small_capture import Capture
from stored import object_path

from lpp.store import Run, RunWriter, create_store, open_store
from lpp.store.format.quarantine import (
    QUARANTINE_SCHEMA,
    SetAside,
    TextSetAside,
    quarantine_table,
    texts_table,
)
from lpp.store.format.tables import STATISTICS, encode_table
from lpp.store.runs.shards import is_whole

BAD = SetAside(prompt_id=1, reason="not_finite", site="block.1", position=3, detail="4 tokens")


def without_statistics(tokens: pa.Table, prompt: int) -> pa.Table:
    bad = pa.array(tokens["prompt_id"].to_numpy() == prompt)
    for name in STATISTICS:
        column = pa.compute.if_else(bad, pa.scalar(None, tokens[name].type), tokens[name])
        place = tokens.schema.get_field_index(name)
        tokens = tokens.set_column(place, tokens.schema.field(name), column)
    return tokens


@pytest.fixture
def aside(capture: Capture, root: Path) -> Run:
    """The capture of four prompts in three shards; the first shard sets prompt 1 aside."""
    texts = texts_table([TextSetAside(source_row=9, reason="empty", detail="line 10")])
    writer = RunWriter(create_store(root).path, capture.plan, capture.prompts, set_aside=texts)
    for index in range(3):
        hidden, tokens = capture.shard(index)
        if index == 0:
            table = quarantine_table([BAD])
            writer.write_shard(index, hidden, without_statistics(tokens, 1), table)
        else:
            writer.write_shard(index, hidden, tokens)
    return open_store(root).runs[capture.plan.run_id]


def test_readers_leave_its_rows_out(aside: Run, capture: Capture) -> None:
    assert aside.quarantined.tolist() == [1]
    rows = np.concatenate(list(aside.hidden("block.1")))
    ids = np.concatenate([block.prompt_id for block in aside.blocks("block.1")])
    assert len(rows) == sum(capture.lengths) - capture.lengths[1]
    assert sorted(set(ids.tolist())) == [0, 2, 3]
    assert aside.quarantine.to_pylist()[0]["site"] == "block.1"
    assert aside.texts_set_aside()["source_row"].to_pylist() == [9]
    summary = aside.set_aside()
    assert (summary.prompts, summary.committed, summary.first_site) == (1, 4, "block.1")
    assert summary.lines() == [
        "1 of 4 prompts are set aside:",
        "  1 hold NaN or infinities, which begin at block.1",
        "texts of the corpus that were set aside: 1 empty",
    ]
    assert aside.verify() == []


def test_a_whole_shard_is_seen_without_parsing_its_record(aside: Run, capture: Capture) -> None:
    tokens = [sum(capture.lengths[first:end]) for first, end in ((0, 2), (2, 3), (3, 4))]
    whole = partial(is_whole, aside.directory, aside.plan)
    assert [whole(k, n) for k, n in enumerate(tokens)] == [False, True, True]
    assert not whole(1, tokens[1] + 1)
    assert not is_whole(aside.directory, replace(aside.plan, context=99), 1, tokens[1])
    records = [on_disk(aside.shards[k].path) / "COMMIT.json" for k in (1, 2)]
    data = records[0].read_bytes()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        records[0].write_bytes(changed)
        assert not whole(1, tokens[1]), data[:place]
    records[0].write_bytes(data[:-1])
    records[1].write_bytes(data)  # of another shard
    assert not any(whole(k, n) for k, n in enumerate(tokens))
    records[0].unlink()
    assert not whole(1, tokens[1])


@pytest.mark.parametrize(
    ("table", "count", "says"),
    [
        ([BAD], 2, "1 rows, 2 were committed"),
        ([SetAside(prompt_id=0, reason="x", site=None, position=None, detail="")], 1, "be null"),
        ([SetAside(prompt_id=2, reason="x", site=None, position=None, detail="")], 1, "ascend"),
        ([BAD, BAD], 2, "should ascend within prompts 0 to 1"),
        ([], 0, "the record has 0 prompts"),
    ],
)
def test_a_quarantine_that_is_not_the_shards_is_a_problem(
    aside: Run, table: list[SetAside], count: int, says: str
) -> None:
    shard = aside.shards[0].path
    path = object_path(shard, "quarantine.arrow")
    path.write_bytes(encode_table(quarantine_table(table)))
    reseal(shard, lambda record: record.update(quarantine=count))
    problems = open_store(aside.path.parent.parent).runs[aside.id].verify()
    assert {p.where for p in problems} == {path.relative_to(on_disk(aside.path)).as_posix()}
    assert says in problems[0].what


def test_an_altered_quarantine_gives_no_rows(aside: Run) -> None:
    from lpp.store.errors import FormatError

    path = object_path(aside.shards[0].path, "quarantine.arrow")
    path.write_bytes(path.read_bytes()[:-1])
    blocks = aside.blocks("block.1")
    with pytest.raises(FormatError, match=r"quarantine.arrow: altered"):
        next(blocks)
    path.unlink()
    assert len(list(aside.blocks("block.1", first=2))) == 2  # damaged is one shard alone


def test_a_writer_refuses_what_does_not_fit(capture: Capture, root: Path) -> None:
    writer = RunWriter(create_store(root).path, capture.plan, capture.prompts)
    with pytest.raises(ValueError, match="statistics of prompts that are set aside"):
        writer.write_shard(0, *capture.shard(0), quarantine_table([BAD]))
    writer.write_shard(0, *capture.shard(0), QUARANTINE_SCHEMA.empty_table())
    assert writer.run.shards[0].record.quarantine == 0
    assert not object_path(writer.run.shards[0].path, "quarantine.arrow").exists()
