"""A store in a bucket, over HTTP: what is written, read, raced for, refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bucket_store import BASE, same, write_at_once
from s3_server import S3, SECRET, Fault, always, some
from small_capture import Capture, make_capture

from lpp.store import create_store, open_store
from lpp.store.errors import ErrorKind, FormatError, InputError, MachineError
from lpp.store.format.commit_record import ObjectRecord
from lpp.store.objects.bucket import bucket_of
from lpp.store.objects.locate import objects_at
from lpp.store.runs.heartbeat import at_work, writers
from lpp.store.runs.write import sweep_run


def records(s3: S3) -> dict[str, dict[str, Any]]:
    """Every COMMIT record in the bucket, by key."""
    return {k: json.loads(v) for k, v in s3.objects().items() if k.endswith("COMMIT.json")}


def test_what_is_written_is_what_the_spec_says(s3: S3, capture: Capture) -> None:
    run = capture.write(s3.url)
    assert same(run, capture)
    assert run.verify() == []
    found = s3.objects()
    assert json.loads(found[f"{BASE}lpp.json"]) == {"format": "lpp-store", "version": 1}
    of_run = f"{BASE}runs/{capture.plan.run_id}/"
    homes = [of_run, *(f"{of_run}shards/{k:05d}/" for k in range(3))]
    expected = {f"{BASE}lpp.json"}
    for home in homes:
        record = json.loads(found[f"{home}COMMIT.json"])
        assert record["format"] == 3
        assert len(record["base"]) == 16
        expected |= {f"{home}{record['base']}/{key}" for key in record["objects"]}
        expected.add(f"{home}COMMIT.json")
    assert set(found) == expected  # no attempt, probe or sign is left


def test_store_moves_between_bucket_and_disk(s3: S3, capture: Capture, tmp_path: Path) -> None:
    capture.write(s3.url, shards=(0, 2))
    local = s3.copy_to(tmp_path / "copy")
    run = open_store(local).runs[capture.plan.run_id]
    assert run.missing_shards == (1,)
    assert [p.where for p in run.verify()] == ["shards/00001/COMMIT.json"]
    run = capture.write(local)  # goes on with it, on the disk
    assert same(run, capture)
    assert run.verify() == []


def test_store_of_a_disk_is_read_from_a_bucket(s3: S3, capture: Capture, tmp_path: Path) -> None:
    capture.write(tmp_path / "store", shards=(0, 1))
    s3.copy_from(tmp_path / "store")
    run = open_store(s3.url).runs[capture.plan.run_id]
    assert run.missing_shards == (2,)
    assert [p.where for p in run.verify()] == ["shards/00002/COMMIT.json"]
    assert same(capture.write(s3.url), capture)  # goes on with it, in the bucket


@pytest.mark.parametrize("n_writers", [2, 4])
def test_writers_at_once_commit_each_shard_once(s3: S3, n_writers: int) -> None:
    capture = make_capture(lengths=(3, 2, 4, 3), shards=(0, 1, 2, 3, 4))
    root = create_store(s3.url).path
    won, lost = write_at_once(root, capture, n_writers)
    assert won == list(range(4))
    assert len(lost) == 4 * (n_writers - 1)
    run = open_store(s3.url).runs[capture.plan.run_id]
    assert same(run, capture)
    assert run.verify() == []
    bases = [record["base"] for record in records(s3).values()]
    lying = {key.split("/")[-2] for key in s3.objects() if key.endswith("tokens.arrow")}
    assert lying <= set(bases)  # the losers took theirs away


def test_what_a_killed_writer_left_is_no_damage_and_goes(s3: S3, capture: Capture) -> None:
    run = capture.write(s3.url, shards=(0, 1))
    left = [f"{BASE}runs/{run.id}/shards/0000{k}/{'ab' * 8}/tokens.arrow" for k in (0, 2)]
    for key in left:
        s3.put(key, b"half")
    problems = open_store(s3.url).runs[run.id].verify()
    assert [problem.where for problem in problems] == ["shards/00002/COMMIT.json"]
    capture.write(s3.url)
    assert left[1] not in s3.objects()  # by whoever commits that shard
    sweep_run(open_store(s3.url).runs[run.id])
    assert left[0] not in s3.objects()
    assert same(open_store(s3.url).runs[run.id], capture)


def test_altered_missing_and_added_objects_are_found(s3: S3, capture: Capture) -> None:
    run = capture.write(s3.url)
    homes = [str(shard.objects_dir).removeprefix(f"{s3.url}/") for shard in run.shards]
    keys = [f"{BASE}{home}/hidden.zarr/embed/c/0/0" for home in homes]
    stored = s3.objects()
    s3.put(keys[0], bytes([stored[keys[0]][0] ^ 1]) + stored[keys[0]][1:])
    s3.delete(keys[1])
    s3.put(keys[2], stored[keys[2]] + b"\x00")
    s3.put(f"{BASE}{homes[0]}/stranger", b"x")
    found = [str(p) for p in open_store(s3.url).runs[run.id].verify()]
    assert len(found) == 4
    assert "not readable" in found[2]
    assert "were committed" in found[3]
    with pytest.raises(FormatError, match="altered since they were committed"):
        next(open_store(s3.url).runs[run.id].hidden("embed"))
    assert next(open_store(s3.url).runs[run.id].hidden("final")).shape == (12, 4)


def test_large_objects_come_and_go_in_parts(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lpp.store.objects.bucket.PART_BYTES", 5 << 20)
    data = np.random.default_rng(0).bytes((12 << 20) + 17)
    objects = objects_at(s3.url)
    objects.write("large", [data[:5], memoryview(data)[5:]])
    assert s3.objects()[f"{BASE}large"] == data
    parts = [seen.key for seen in s3.proxy.seen if "partNumber" in seen.key]
    assert len(parts) == 3
    s3.proxy.seen.clear()
    parts_read = [(2 << 20) + 17, 5 << 20, 5 << 20]
    with objects.open("large", ahead=range(len(data)), size=len(data)) as source:
        found = bytearray(len(data))
        source.read_into(memoryview(found), 0)
    assert bytes(found) == data
    assert sorted(s.received for s in s3.proxy.seen if s.method == "GET") == parts_read
    s3.proxy.seen.clear()
    assert objects.file("large", ObjectRecord.of([data])).read_bytes() == data
    # the first request tells the size; its body is let go
    assert sorted(s.received for s in s3.proxy.seen if "GET" in s.method)[:3] == parts_read


def test_reading_a_site_reads_that_site_and_the_prompts_once(s3: S3) -> None:
    run = make_capture(lengths=(500, 300), shards=(0, 1, 2)).write(s3.url)
    fresh = open_store(s3.url).runs[run.id]
    assert len(fresh.shards) == 2
    s3.proxy.seen.clear()
    for _ in fresh.blocks("block.1"):
        pass
    objects = [shard.record.objects for shard in fresh.shards]
    of_site = [o for group in objects for key, o in group.items() if "/block.1/" in key]
    # of an array its chunks alone: where they lie the record says
    site = sum(sum(c.bytes for c in o.chunks) or o.bytes for o in of_site)
    prompts = fresh.commit.objects["prompts.arrow"].bytes
    assert s3.proxy.read("hidden.zarr") == site
    assert s3.proxy.read("prompts.arrow") in (0, prompts)  # 0: a copy is in this process
    assert s3.proxy.read() == site + s3.proxy.read("prompts.arrow")
    for _ in fresh.blocks("final"):
        pass
    assert s3.proxy.read("prompts.arrow") in (0, prompts)
    assert s3.proxy.read("tokens.arrow") == 0


def test_object_that_is_replaced_while_it_is_read_is_read_anew(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lpp.store.objects.bucket.PART_BYTES", 1 << 10)
    old, new = b"o" * 4000, b"n" * 5000
    objects = objects_at(s3.url)
    s3.put(f"{BASE}database", old)

    def rule(method: str, key: str) -> None:
        if method == "GET" and "database" in key:
            s3.put(f"{BASE}database", new)

    s3.proxy.rule = rule
    assert objects.local("database").read_bytes() == new


def test_signs_of_work_are_seen_and_go(s3: S3, capture: Capture) -> None:
    run = capture.write(s3.url, shards=(0,))
    with at_work(run.path / "shards", "part 0/2"):
        (writer,) = writers(run.path / "shards")
        assert (writer.doing, writer.here, writer.ended) == ("part 0/2", True, False)
    assert writers(run.path / "shards") == []


def test_store_without_conditions_is_refused_unless_its_writer_is_alone(
    s3: S3, capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.proxy.strip_conditions = True
    for attempt in (lambda: create_store(s3.url), lambda: capture.write(s3.url)):
        with pytest.raises(MachineError, match="LPP_ONLY_WRITER=1") as caught:
            attempt()
        assert caught.value.kind is ErrorKind.DENIED
    assert s3.objects() == {}
    monkeypatch.setenv("LPP_ONLY_WRITER", "1")
    assert same(capture.write(s3.url), capture)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="answer", status=503, code="SlowDown"),
        Fault(kind="delay", seconds=0.3),
        Fault(kind="cut request"),
        Fault(kind="cut answer"),
        Fault(kind="lose answer"),
    ],
    ids=lambda fault: f"{fault.kind} {fault.code}",
)
def test_faults_that_pass_change_nothing(s3: S3, capture: Capture, fault: Fault) -> None:
    s3.proxy.rule = some(fault, every=11)
    run = capture.write(s3.url)
    assert same(run, capture)
    assert run.verify() == []
    s3.proxy.rule = lambda _method, _key: None
    shards = [r for k, r in records(s3).items() if "/shards/" in k]
    assert len(shards) == capture.plan.n_shards
    assert {key.split("/")[-2] for key in s3.objects() if key.endswith("tokens.arrow")} == {
        record["base"] for record in shards
    }


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(kind="answer", status=418), (ErrorKind.UNREACHABLE, "HTTP 418 InternalError")),
        (Fault(kind="answer", status=500), (ErrorKind.UNREACHABLE, "HTTP 500 InternalError")),
        (Fault(kind="delay", seconds=1.5), (ErrorKind.UNREACHABLE, "did not answer in time")),
        (Fault(kind="cut request"), (ErrorKind.UNREACHABLE, "the connection was cut")),
        (Fault(kind="answer", status=403, code="ExpiredToken"), (ErrorKind.DENIED, "ExpiredToken")),
        (Fault(kind="answer", status=400, code="ExpiredToken"), (ErrorKind.DENIED, "ExpiredToken")),
    ],
)
def test_faults_that_last_end_in_one_message_and_a_resume(
    s3: S3, capture: Capture, monkeypatch: pytest.MonkeyPatch, fault: Fault, expected: Any
) -> None:
    kind, words = expected
    capture.write(s3.url, shards=(0,))
    monkeypatch.setenv("LPP_RETRY_SECONDS", "0.5")
    if fault.kind == "delay":
        monkeypatch.setattr("lpp.store.objects.bucket.REQUEST_SECONDS", 0.5)
    bucket_of.cache_clear()
    s3.proxy.rule = always(fault, method="PUT", part="tokens.arrow")
    with pytest.raises(MachineError, match=words) as caught:
        capture.write(s3.url)
    assert caught.value.kind is kind
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    s3.proxy.rule = lambda _method, _key: None
    assert same(capture.write(s3.url), capture)


@pytest.mark.parametrize(
    "url",
    [
        f"s3://key:{SECRET}@lab/store",
        f"s3://lab/store?token={SECRET}",
        f"s3://lab/store#{SECRET}",
        f"s3://lab:{SECRET}/store",
        f"https://key:{SECRET}@s3.example.org/store",
        f"s3://lab/../{SECRET}",
        "s3://",
        "s3:///store",
        f"az://lab/store?sig={SECRET}",
        f"gs://{SECRET}/store",
    ],
)
@pytest.mark.parametrize("use", [open_store, create_store])
def test_urls_that_hold_more_are_refused_without_repeating_it(url: str, use: Any) -> None:
    with pytest.raises(InputError) as caught:
        use(url)
    assert caught.value.kind is ErrorKind.INVALID_VALUE
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("status", [409, 412])
def test_a_server_that_denies_what_is_not_there_ends_the_commit(
    s3: S3, capture: Capture, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """It refuses each new record because one exists, and has none."""
    capture.write(s3.url, shards=(0,))
    monkeypatch.setenv("LPP_RETRY_SECONDS", "5")
    bucket_of.cache_clear()
    fault = Fault(kind="answer", status=status, code="PreconditionFailed")
    s3.proxy.rule = always(fault, method="PUT", part="shards/00001/COMMIT.json")
    with pytest.raises(MachineError, match="same command"):
        capture.write(s3.url)
    s3.proxy.rule = lambda _method, _key: None
    assert same(capture.write(s3.url), capture)
