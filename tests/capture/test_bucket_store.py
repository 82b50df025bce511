"""The commands on a store in a bucket: the numbers of a disk, one message for what lasts, and no
secret anywhere.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from s3_server import S3, SECRET, Fault, Proxy, always, some
from stored import only_run

from lpp.analyze import build_database
from lpp.capture.corpus.selection import Selection
from lpp.capture.engine.run import capture_into
from lpp.capture.models.spec import ModelSpec
from lpp.capture.plan.request import CaptureRequest, CorpusSpec
from lpp.sql import connect
from lpp.store import Run

Command = Callable[..., subprocess.CompletedProcess[str]]

NOTHING: Any = lambda _method, _key: None  # noqa: E731
TABLES = ("profiles", "spectra", "entropy", "site_profiles", "prompts", "token_stats")


@pytest.fixture
def request_(tiny_folder: Callable[[str], Path], tmp_path: Path) -> CaptureRequest:
    """A tiny model, six texts in several shards."""
    corpus = tmp_path / "texts.txt"
    corpus.write_text("\n\n".join(f"the dog and the fox {k} " * 3 for k in range(6)))
    return CaptureRequest(
        model=ModelSpec(id=str(tiny_folder("gpt2"))),
        corpus=CorpusSpec(name=str(corpus)),
        selection=Selection(prompts=6, min_bytes=0),
        context=20,
        shard_bytes=20_000,
    )


def same(one: Run, other: Run) -> bool:
    """Whether two runs hold the same bits."""
    assert one.plan == other.plan
    assert one.missing_shards == other.missing_shards == ()
    for site in one.sites:
        ours, theirs = (np.concatenate(list(run.hidden(site))) for run in (one, other))
        assert ours.tobytes() == theirs.tobytes()
    return bool(one.tokens().to_table().equals(other.tokens().to_table()))


def table(url: Any, name: str) -> pa.Table:
    with connect(url) as connection:
        return connection.sql(f"SELECT * FROM {name} ORDER BY ALL").to_arrow_table()


def run_on(run_command: Command, s3: S3, *words: object) -> subprocess.CompletedProcess[str]:
    return run_command(*words, **s3.environment)


def test_capture_profile_and_sql_give_what_a_disk_gives(
    s3: S3, request_: CaptureRequest, tmp_path: Path, run_command: Command
) -> None:
    local = tmp_path / "lpp"
    s3.proxy.rule = some(Fault(kind="answer", status=503, code="SlowDown"), every=25)
    capture_into(s3.url, request_)
    capture_into(local, request_)
    assert same(only_run(s3.url), only_run(local))
    assert len(only_run(local).shards) > 2
    build_database(s3.url)
    build_database(local)
    for name in TABLES:
        assert table(s3.url, name).equals(table(local, name)), name
    s3.proxy.rule = NOTHING
    copy = s3.copy_to(tmp_path / "copy")
    assert table(copy, "token_stats").equals(table(local, "token_stats"))
    check_commands(s3, request_, run_command)
    outputs = b"".join(s3.objects().values())
    assert SECRET.encode() not in outputs
    assert b"AKTEST" not in outputs


def check_commands(s3: S3, request: CaptureRequest, run_command: Command) -> None:
    """What is done starts nothing; every command reads the bucket; none tells a secret."""
    run = only_run(s3.url)
    options = ["--corpus", request.corpus.name, "--prompts", 6, "--min-bytes", 0, "--context", 20]
    s3.proxy.seen.clear()
    commands: dict[str, tuple[list[object], int]] = {
        "is complete": (["lpp-capture", "status", s3.url], 0),
        "entropy_floor": (["lpp-sql", s3.url, "FROM profiles", "--format", "csv"], 0),
        "is as it was committed": (["lpp-analyze", "verify", s3.url, "--debug"], 0),
        "not written in place": (["lpp-sql", s3.url, "DELETE FROM profiles", "--write"], 2),
        "Credentials and settings never go there": (
            ["lpp-capture", "run", "--store", f"s3://k:{SECRET}@lab", "--model", "m", *options],
            2,
        ),
    }
    for words, (command, code) in commands.items():
        done = run_on(run_command, s3, *command)
        assert done.returncode == code, done.stderr
        assert words.removeprefix("is complete") in done.stdout + done.stderr
        assert SECRET not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    assert s3.proxy.read("hidden.zarr") == sum(  # by verify alone
        item.bytes
        for shard in run.shards
        for key, item in shard.record.objects.items()
        if key.startswith("hidden.zarr/")
    ) + sum(  # once more what the arrays say of themselves
        item.bytes
        for shard in run.shards
        for key, item in shard.record.objects.items()
        if key.endswith("/zarr.json") and key.count("/") == 2
    ) + sum(  # and the chunks of `final`, for the logits
        sum(chunk.bytes for chunk in item.chunks) or item.bytes
        for shard in run.shards
        for key, item in shard.record.objects.items()
        if key.startswith("hidden.zarr/final/")
    )


def test_profile_of_one_site_reads_that_site(s3: S3, request_: CaptureRequest) -> None:
    from lpp.analyze import scan_spectra

    capture_into(s3.url, request_)
    s3.proxy.seen.clear()
    import polars as pl

    scan_spectra(s3.url).filter(pl.col("site") == "final").collect()
    run = only_run(s3.url)
    sizes = [
        sum(chunk.bytes for chunk in item.chunks) or item.bytes  # where its record has chunks,
        for shard in run.shards  # nobody asks for the index behind them
        for key, item in shard.record.objects.items()
        if key.startswith("hidden.zarr/final/")
    ]
    assert s3.proxy.read("hidden.zarr/final/") == sum(sizes)
    assert s3.proxy.read("hidden.zarr") == sum(sizes)


LASTING = {
    "HTTP 500 InternalError": Fault(kind="answer", status=500),
    "refuses access (ExpiredToken)": Fault(kind="answer", status=403, code="ExpiredToken"),
}


@pytest.mark.parametrize("words", LASTING)
def test_what_lasts_ends_with_one_message(
    s3: S3, request_: CaptureRequest, tmp_path: Path, run_command: Command, words: str
) -> None:
    capture_into(tmp_path / "lpp", request_)
    s3.copy_from(tmp_path / "lpp")
    s3.proxy.rule = always(LASTING[words], part="hidden.zarr")
    quick = {**s3.environment, "LPP_RETRY_SECONDS": "1"}
    done = run_command("lpp-analyze", "profile", s3.url, **quick)
    assert done.returncode == 2
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("Error")]
    assert words in line
    assert s3.bucket in line
    assert SECRET not in done.stdout + done.stderr


def test_a_traceback_tells_no_secret(
    s3: S3, request_: CaptureRequest, tmp_path: Path, run_command: Command
) -> None:
    capture_into(tmp_path / "lpp", request_)
    s3.copy_from(tmp_path / "lpp")
    s3.proxy.rule = always(Fault(kind="answer", status=500), method="GET", part="plan.json")
    endpoint = s3.environment["AWS_ENDPOINT_URL"].replace("//", f"//user:{SECRET}@")
    quick = {**s3.environment, "LPP_RETRY_SECONDS": "0.5", "AWS_ENDPOINT_URL": endpoint}
    done = run_command("lpp-analyze", "verify", s3.url, "--debug", **quick)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "MachineError" in done.stderr
    assert "HTTP 500" in done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_capture_that_loses_its_store_midway_resumes(
    s3: S3, request_: CaptureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lpp.store.errors import ErrorKind, MachineError
    from lpp.store.objects.bucket import bucket_of

    capture_into(tmp_path / "lpp", request_)
    monkeypatch.setenv("LPP_RETRY_SECONDS", "0.5")
    bucket_of.cache_clear()
    s3.proxy.rule = always(Fault(kind="cut request"), method="PUT", part="shards/00002/")
    with pytest.raises(MachineError, match="same command resumes") as caught:
        capture_into(s3.url, request_)
    assert caught.value.kind is ErrorKind.UNREACHABLE
    done = [shard.index for shard in only_run(s3.url).shards]
    assert {0, 1} <= {*done} < {0, 1, 3, 4}  # those beside it were under way
    s3.proxy.rule = some(Fault(kind="cut answer"), every=9)
    monkeypatch.setenv("LPP_RETRY_SECONDS", "20")
    bucket_of.cache_clear()
    assert capture_into(s3.url, request_).captured == 6 - len(done)
    assert same(only_run(s3.url), only_run(tmp_path / "lpp"))
    assert only_run(s3.url).verify() == []


def test_no_store_answers_at_all(run_command: Command, s3_server: int) -> None:
    proxy = Proxy(s3_server)
    proxy.close()
    s3 = S3(bucket="lab", proxy=proxy, server=s3_server)
    quick = {**s3.environment, "LPP_RETRY_SECONDS": "0.5"}
    done = run_command("lpp-capture", "status", s3.url, **quick)
    assert done.returncode == 2
    assert "no connection" in done.stderr
    assert done.stderr.count("\n") == 1
    assert json.dumps(SECRET) not in done.stderr
