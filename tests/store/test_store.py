"""Opening and making stores: what is one, what is not, and what the message says."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_capture import Capture, make_capture

from lpp.store import create_store, open_store
from lpp.store.errors import ErrorKind, FormatError, InputError


def refused(kind: ErrorKind, url: Any) -> str:
    with pytest.raises(FormatError) as caught:
        open_store(url)
    assert caught.value.kind is kind
    return str(caught.value)


def test_new_store_opens_by_path_text_and_url(root: Path) -> None:
    create_store(root / "deep" / "er")
    path = root / "deep" / "er"
    for url in (path, str(path), f"file://{path}"):
        assert open_store(url).path == path
        assert open_store(url).runs == {}
        assert create_store(url).path == path
    assert [p.name for p in path.iterdir()] == ["lpp.json"]
    assert repr(open_store(path)) == f"Store({str(path)!r}, 0 runs)"


def test_what_is_not_a_store(tmp_path: Path) -> None:
    missing = refused(ErrorKind.NOT_A_STORE, tmp_path / "none")
    assert missing.startswith(f"{tmp_path / 'none'} is not an lpp store: no such directory.")
    assert f"--store {tmp_path / 'none'}" in missing
    empty = refused(ErrorKind.NOT_A_STORE, tmp_path)
    assert f"--store {tmp_path}` makes one" in empty
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "new"):
        assert f"{tmp_path / 'file'} is not a directory" in refused(ErrorKind.NOT_A_STORE, path)
    others = refused(ErrorKind.NOT_A_STORE, tmp_path)
    create_store(others.split("directory: ")[1].split(",")[0])  # the directory that it proposes
    (tmp_path / "odd" / "lpp.json").mkdir(parents=True)
    assert "lpp.json: not a file" in refused(ErrorKind.NOT_A_STORE, tmp_path / "odd")


@pytest.mark.parametrize("text", [None, "", "{", '{"format":"lpp-stkre","version":1}'])
def test_a_lost_root_document_is_restored_as_the_message_says(root: Path, text: str | None) -> None:
    run = make_capture().write(root)
    good = (root / "lpp.json").read_bytes()
    if text is None:
        (root / "lpp.json").unlink()
    else:
        (root / "lpp.json").write_text(text)
    kind = ErrorKind.NOT_A_STORE if text is None or text[1:] else ErrorKind.CORRUPT
    said = refused(kind, root)
    (root / "lpp.json").write_text(said.split("write ")[1].split(" into ")[0])
    assert (root / "lpp.json").read_bytes() == good
    assert run.id in open_store(root).runs


@pytest.mark.parametrize(
    ("text", "kind", "part"),
    [
        ('{"format": "lpp-store", "version": 2}', "UNSUPPORTED_VERSION", "format 2, this release"),
        ('{"format": "lpp-store", "version": 0}', "CORRUPT", "format 0, and formats begin with 1"),
        ('{"format": "other", "version": 1}', "NOT_A_STORE", "format 'other', not 'lpp-store'"),
        ('{"format": "lpp-store"}', "CORRUPT", "version is missing"),
        ('{"format": "lpp-store", "version": "1"}', "CORRUPT", "version should be int, is '1'"),
        ('{"format": 4, "version": true}', "CORRUPT", "format should be str, is 4; version"),
        ("[1]", "CORRUPT", "document should be an object"),
        ('{"format": "lpp-st', "CORRUPT", "not a JSON document"),
        ("", "CORRUPT", "not a JSON document"),
    ],
)
def test_root_document_is_checked(root: Path, text: str, kind: str, part: str) -> None:
    root.mkdir()
    (root / "lpp.json").write_text(text)
    message = refused(ErrorKind[kind], root)
    assert part in message
    assert str(root) in message
    with pytest.raises(FormatError):  # making one here must not write over it
        create_store(root)
    assert (root / "lpp.json").read_text() == text


def test_unknown_root_fields_are_ignored(root: Path) -> None:
    create_store(root)
    document = json.loads((root / "lpp.json").read_text()) | {"made_by": "a later release"}
    (root / "lpp.json").write_text(json.dumps(document))
    assert open_store(root).path == root


@pytest.mark.parametrize("make", [open_store, create_store])
def test_other_schemes_are_refused(make: Any) -> None:
    with pytest.raises(InputError, match=r"^hdfs:// stores are not supported") as caught:
        make("hdfs://lab/lpp")
    assert caught.value.kind is ErrorKind.INVALID_VALUE
    assert "give a directory or s3://bucket/prefix" in str(caught.value)


def test_store_never_mixes_with_other_things(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    for path in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(InputError, match=r"is not an lpp store: .*a new directory"):
            create_store(path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_strangers_among_the_runs_are_no_runs(capture: Capture, root: Path) -> None:
    run = capture.write(root)
    (root / "runs" / "lost+found").mkdir()
    (root / "runs" / ".hidden-1").mkdir()
    (root / "runs" / "a-file").write_text("x")
    assert list(open_store(root).runs) == [run.id]


MAKE = """
import sys, time
from pathlib import Path
from lpp.store import create_store

start, root = float(sys.argv[1]), Path(sys.argv[2])
for attempt in range(10):
    while time.time() < start + attempt / 20:
        pass
    create_store(root / str(attempt))
    (root / str(attempt) / "runs").mkdir(exist_ok=True)
"""


@pytest.mark.slow
def test_many_processes_make_one_store(tmp_path: Path) -> None:
    start = str(time.time() + 1)
    command = [sys.executable, "-c", MAKE, start, str(tmp_path)]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    assert [(worker.communicate(timeout=60)[1], worker.returncode) for worker in workers] == [
        (b"", 0)
    ] * 3
    for attempt in range(10):
        names = sorted(p.name for p in (tmp_path / str(attempt)).iterdir())
        assert names == ["lpp.json", "runs"]


MAKE_AS_ANOTHER_DOES = """
import sys
from pathlib import Path
from lpp.store import create_store

root = Path(sys.argv[1])
root.mkdir()
made = []


def other_writer(event, arguments):
    # The moment the directory is looked into: after it was seen to hold no lpp.json.
    if event in ("os.listdir", "os.scandir") and str(arguments[0]) == str(root) and not made:
        made.append(True)
        (root / "lpp.json").write_text('{"format": "lpp-store", "version": 1}')
        (root / "runs").mkdir()


sys.addaudithook(other_writer)
print(create_store(root).path, len(made))
"""


def test_store_made_by_another_between_two_looks(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MAKE_AS_ANOTHER_DOES, str(root)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"{root} 1\n", "")
