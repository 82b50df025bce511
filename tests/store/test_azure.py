"""A store in a container of Azure Blob Storage: what a bucket of S3 does, and where Azure differs.

Writers race on the server itself; faults come from the proxy that stands before S3's server too.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from azure_server import KEY, Azure, endpoint
from bucket_store import BASE, same, write_at_once
from s3_server import SECRET, Fault, Proxy, always, some
from small_capture import Capture, make_capture

from lpp.store import add_scores, create_store, open_store, read_scores, remove_scores
from lpp.store.errors import ErrorKind, FormatError, InputError, LppError, MachineError
from lpp.store.objects.bucket import bucket_of
from lpp.store.objects.locate import objects_at
from lpp.store.runs.write import sweep_run
from lpp.store.scores.scores import SCORES_SCHEMA, verify_scores


@pytest.fixture
def proxy(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """What stands before the server where a test wants faults."""
    found = Proxy(azure.port)
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", endpoint(found.port))
    yield found
    found.close()


@pytest.fixture
def impatient(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeats requests for half a second."""
    monkeypatch.setenv("LPP_RETRY_SECONDS", "0.5")


def bases(azure: Azure) -> set[str]:
    """Prefixes that records name."""
    found = azure.objects().items()
    return {json.loads(data)["base"] for key, data in found if key.endswith("COMMIT.json")}


def test_what_is_written_is_read_and_verified(
    azure: Azure, capture: Capture, tmp_path: Path
) -> None:
    capture.write(azure.url, shards=(0, 2))
    run = capture.write(azure.url)
    assert same(run, capture)
    assert run.verify() == []
    attempts = {key.split("/")[-2] for key in azure.objects() if key.endswith(".arrow")}
    assert attempts == bases(azure)  # no other attempt is left
    copy = open_store(azure.copy_to(tmp_path / "copy")).runs[run.id]
    assert same(copy, capture)
    assert copy.verify() == []


def test_store_of_a_disk_goes_on_in_a_container(
    azure: Azure, capture: Capture, tmp_path: Path
) -> None:
    capture.write(tmp_path / "store", shards=(0, 1))
    azure.copy_from(tmp_path / "store")
    assert open_store(azure.url).runs[capture.plan.run_id].missing_shards == (2,)
    assert same(capture.write(azure.url), capture)


@pytest.mark.parametrize("n_writers", [2, 4])
def test_writers_at_once_commit_each_shard_once(azure: Azure, n_writers: int) -> None:
    capture = make_capture(lengths=(3, 2, 4, 3), shards=(0, 1, 2, 3, 4))
    root = create_store(azure.url).path
    won, lost = write_at_once(root, capture, n_writers)
    assert won == list(range(4))
    assert lost == sorted(list(range(4)) * (n_writers - 1))
    run = open_store(azure.url).runs[capture.plan.run_id]
    assert same(run, capture)
    assert run.verify() == []
    attempts = {key.split("/")[-2] for key in azure.objects() if key.endswith("tokens.arrow")}
    assert attempts <= bases(azure)  # the losers took theirs away


def test_damaged_record_is_replaced(azure: Azure, capture: Capture) -> None:
    capture.write(azure.url)
    key = f"{BASE}runs/{capture.plan.run_id}/shards/00001/COMMIT.json"
    good = azure.objects()[key]
    azure.put(key, good.replace(b'"rows":3', b'"rows":4'))
    run = open_store(azure.url).runs[capture.plan.run_id]
    assert [p.where for p in run.verify()] == ["shards/00001/COMMIT.json"]
    assert same(capture.write(azure.url), capture)
    assert json.loads(good)["base"] not in "".join(azure.objects())


def test_what_a_killed_writer_left_is_no_damage_and_goes(azure: Azure, capture: Capture) -> None:
    run = capture.write(azure.url)
    left = f"{BASE}runs/{run.id}/shards/00000/{'ab' * 8}/tokens.arrow"
    azure.put(left, b"half")
    assert open_store(azure.url).runs[run.id].verify() == []
    sweep_run(open_store(azure.url).runs[run.id])
    assert left not in azure.objects()
    assert same(open_store(azure.url).runs[run.id], capture)


def test_altered_missing_and_added_objects_are_found(azure: Azure, capture: Capture) -> None:
    run = capture.write(azure.url)
    homes = [
        f"{shard.objects_dir}".removeprefix(f"az://{azure.container}/") for shard in run.shards
    ]
    keys = [f"{home}/hidden.zarr/embed/c/0/0" for home in homes]
    stored = azure.objects()
    altered = bytearray(stored[keys[0]])
    altered[20] ^= 1
    azure.put(keys[0], bytes(altered))
    azure.delete(keys[1])
    azure.put(keys[2], stored[keys[2]] + b"\x00")
    azure.put(f"{homes[0]}/stranger", b"x")
    found = [str(p) for p in open_store(azure.url).runs[run.id].verify()]
    assert len(found) == 4
    assert "checksum does not match" in found[0]
    assert "not part of what was committed" in found[1]
    assert "not readable" in found[2]
    assert "were committed" in found[3]
    with pytest.raises(FormatError, match="altered since they were committed"):
        next(open_store(azure.url).runs[run.id].hidden("embed"))


def test_large_objects_come_and_go_in_blocks(
    azure: Azure, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lpp.store.objects.bucket.PART_BYTES", 5 << 20)
    data = np.random.default_rng(0).bytes((12 << 20) + 17)
    objects = objects_at(azure.url)
    objects.write("large", [data])
    assert azure.objects()[f"{BASE}large"] == data
    assert sum("comp=block&" in seen.key for seen in proxy.seen) == 3
    proxy.seen.clear()
    with objects.open("large", ahead=range(len(data)), size=len(data)) as source:
        found = bytearray(len(data))
        source.read_into(memoryview(found), 0)
    assert bytes(found) == data
    parts = sorted(seen.received for seen in proxy.seen if seen.method == "GET")
    assert parts == [(2 << 20) + 17, 5 << 20, 5 << 20]


def test_object_that_is_replaced_while_it_is_read_is_read_anew(
    azure: Azure, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lpp.store.objects.bucket.PART_BYTES", 1 << 10)
    old, new = b"o" * 4000, b"n" * 5000
    azure.put(f"{BASE}database", old)

    def rule(method: str, key: str) -> None:
        if method == "GET" and "database" in key and azure.objects()[f"{BASE}database"] == old:
            azure.put(f"{BASE}database", new)

    proxy.rule = rule
    assert objects_at(azure.url).local("database").read_bytes() == new


def test_scores_are_added_replaced_and_removed(azure: Azure) -> None:
    root = create_store(azure.url).path
    row = dict.fromkeys(SCORES_SCHEMA.names) | {
        "model": "m",
        "benchmark": "b",
        "metric": "acc",
        "value": 0.5,
        "source": "mine",
        "kind": "csv",
    }
    table = pa.Table.from_pylist([row], schema=SCORES_SCHEMA)
    assert add_scores(root, "mine", table, {"a/x.csv": b"1", "empty.csv": b""})
    assert not add_scores(root, "mine", table, {"a/x.csv": b"1", "empty.csv": b""})
    other = pa.Table.from_pylist([row | {"value": 0.25}], schema=SCORES_SCHEMA)
    assert add_scores(root, "mine", other, {}, replace=True)
    assert read_scores(root)["value"].to_pylist() == [0.25]
    assert verify_scores(root) == []
    remove_scores(root, "mine")
    assert [key for key in azure.objects() if "/mine-" in key] == []


def test_objects_that_another_removed_keep_none_from_going(azure: Azure) -> None:
    bucket = bucket_of(f"az://{azure.container}")
    keys = [f"many/{n:03d}" for n in range(40)]
    for key in keys:
        bucket.put(key, b"x")
    bucket.delete(["many/-gone", *keys])
    assert azure.objects() == {}
    bucket.delete(keys)


def test_object_that_may_not_be_removed_is_said_at_once(azure: Azure, proxy: Proxy) -> None:
    bucket = bucket_of(f"az://{azure.container}")
    azure.put("leased", b"x")
    azure.lease("leased")
    with pytest.raises(LppError, match="HTTP 412"):
        bucket.delete(["leased"])
    assert len(proxy.seen) == 1  # asking again would not help
    assert azure.objects() == {"leased": b"x"}


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="answer", status=503, code="ServerBusy"),
        Fault(kind="cut request"),
        Fault(kind="cut answer"),
        Fault(kind="lose answer"),
    ],
    ids=lambda fault: fault.kind,
)
def test_faults_that_pass_change_nothing(
    azure: Azure, proxy: Proxy, capture: Capture, fault: Fault
) -> None:
    proxy.rule = some(fault, every=11)
    run = capture.write(azure.url)
    assert same(run, capture)
    assert run.verify() == []
    attempts = {key.split("/")[-2] for key in azure.objects() if key.endswith("tokens.arrow")}
    assert attempts <= bases(azure)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(kind="answer", status=500), ErrorKind.UNREACHABLE),
        (Fault(kind="answer", status=403, code="AuthorizationFailure"), ErrorKind.DENIED),
        (Fault(kind="answer", status=400, code="InvalidAuthenticationInfo"), ErrorKind.DENIED),
        (Fault(kind="answer", status=409, code="PublicAccessNotPermitted"), ErrorKind.DENIED),
    ],
    ids=lambda value: value.code if isinstance(value, Fault) else "",
)
@pytest.mark.usefixtures("impatient")
def test_faults_that_last_end_in_one_message_and_a_resume(
    azure: Azure, proxy: Proxy, capture: Capture, fault: Fault, kind: ErrorKind
) -> None:
    capture.write(azure.url, shards=(0,))
    proxy.rule = always(fault, method="PUT", part="tokens.arrow")
    with pytest.raises(MachineError, match=f"HTTP {fault.status}|{fault.code}") as caught:
        capture.write(azure.url)
    message = str(caught.value)
    assert caught.value.kind is kind
    named = "_ENDPOINT" if kind is ErrorKind.UNREACHABLE else "_ACCOUNT_KEY"
    assert f"AZURE_STORAGE{named}" in message
    assert "same command resumes" in message
    assert [word for word in ("AWS_", KEY, SECRET) if word in message] == []
    assert caught.value.__suppress_context__
    proxy.rule = lambda _method, _key: None
    assert same(capture.write(azure.url), capture)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"AZURE_STORAGE_ACCOUNT_NAME": ""}, "AZURE_STORAGE_ACCOUNT_NAME.*incomplete"),
        ({"AZURE_STORAGE_ACCOUNT_KEY": f"{SECRET} ?"}, "incomplete or not understood"),
        ({"AZURE_STORAGE_ACCOUNT_KEY": "AAAA"}, "refuses access.*AZURE_STORAGE_ACCOUNT_KEY"),
    ],
)
def test_settings_that_do_not_fit_are_named(
    azure: Azure, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], words: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(LppError, match=words) as caught:
        open_store(azure.url)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "url",
    [
        f"az://key:{SECRET}@lab/store",
        f"az://lab@{SECRET}.blob.core.windows.net/store",
        f"az://lab/store?sig={SECRET}",
        f"az://lab/store#{SECRET}",
        f"az://lab:{SECRET}/store",
        f"az://lab/../{SECRET}",
        f"az://Lab/{SECRET}",
        f"az://la/{SECRET}",
        f"az://lab--two/{SECRET}",
        f"az://-lab/{SECRET}",
        f"az://{'l' * 64}/{SECRET}",
        f"az://$web/{SECRET}",
        f"az://lab/store./{SECRET}",
        f"abfss://lab@{SECRET}.dfs.core.windows.net/store",
        "az://",
        "az:///store",
    ],
)
@pytest.mark.parametrize("use", [open_store, create_store])
def test_urls_that_hold_more_or_break_azures_rules_are_refused(url: str, use: Any) -> None:
    with pytest.raises(
        InputError, match=r"az://container/prefix|AZURE_STORAGE_ACCOUNT_KEY"
    ) as caught:
        use(url)
    assert caught.value.kind is ErrorKind.INVALID_VALUE
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("use", [open_store, create_store])
def test_cloud_that_no_test_proves_is_refused_with_what_to_do(use: Any) -> None:
    with pytest.raises(
        InputError, match="write to a directory and copy the finished store"
    ) as caught:
        use("gs://lab/store")
    assert caught.value.kind is ErrorKind.INVALID_VALUE
    assert "s3://bucket/prefix or az://container/prefix" in str(caught.value)


def test_container_that_nobody_made_is_said(azure: Azure) -> None:
    with pytest.raises(FormatError, match="is not an lpp store: no such directory"):
        open_store(azure.url)
    with pytest.raises(InputError, match="no such container"):
        create_store("az://nobody-made-this/store")
