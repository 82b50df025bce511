"""Which request became which run: what changes its key; no model loads for what is done."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ended_owner import ended_name
from on_disk import on_disk

from lpp.capture.corpus.selection import Selection
from lpp.capture.engine.run import capture_into
from lpp.capture.engine.run_cache import finished, remember, request_key, skip_finished
from lpp.capture.models.load import load_model
from lpp.capture.models.loaded import loaded_spec
from lpp.capture.models.spec import LoadedModel, ModelSpec
from lpp.capture.plan.parts import WHOLE, Part
from lpp.capture.plan.request import CaptureRequest, ContinuationSpec, CorpusSpec, InMemory
from lpp.store import Run, create_store, open_store
from lpp.store.format.keys import REQUESTS_KEY
from lpp.store.runs.heartbeat import at_work


@pytest.fixture
def request_(tiny_folder: Callable[[str], Path], tmp_path: Path) -> CaptureRequest:
    """A tiny model of its own files, four texts in several shards."""
    model = tmp_path / "model"
    shutil.copytree(tiny_folder("gpt2"), model)
    corpus = tmp_path / "texts.txt"
    corpus.write_text("\n\n".join("the dog and the fox " * 3 for _ in range(4)))
    return CaptureRequest(
        model=ModelSpec(id=str(model)),
        corpus=CorpusSpec(name=str(corpus)),
        selection=Selection(prompts=4, min_bytes=0),
        context=20,
        shard_bytes=20_000,
    )


def test_the_key_holds_while_nothing_changes(request_: CaptureRequest) -> None:
    key = request_key(request_)
    assert key is not None
    assert request_key(replace(request_)) == key
    relative = os.path.relpath(request_.model.id)
    assert request_key(replace(request_, model=replace(request_.model, id=relative))) == key


def test_a_folder_of_very_many_files_has_no_key(
    request_: CaptureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_files = sum(len(names) for _, _, names in os.walk(request_.model.id))
    monkeypatch.setattr("lpp.capture.engine.run_cache._MAX_FILES", n_files)
    assert request_key(request_) is not None
    (Path(request_.model.id) / "one more").touch()
    assert request_key(request_) is None


@pytest.mark.parametrize("devices", [("cuda:0", "cuda:1"), ("cuda", "cuda:3")])
def test_any_card_is_the_same_run_and_another_kind_is_not(
    request_: CaptureRequest, devices: tuple[str, str]
) -> None:
    one, other = (
        request_key(replace(request_, model=replace(request_.model, device=device)))
        for device in devices
    )
    assert one == other != request_key(request_)


def changed(request: CaptureRequest, what: str) -> CaptureRequest:
    """The request with one thing changed, on disk or in itself."""
    model, corpus = Path(request.model.id), Path(request.corpus.name)
    if what == "weights":
        os.utime(model / "model.safetensors", ns=(1, 1))
    elif what == "configuration":
        (model / "config.json").write_text((model / "config.json").read_text() + " ")
    elif what == "file":
        (model / "chat_template.jinja").write_text("")
    elif what == "corpus":
        corpus.write_text(corpus.read_text() + "\n\nmore")
    elif what == "context":
        return replace(request, context=19)
    elif what == "selection":
        return replace(request, selection=Selection(prompts=3, min_bytes=0))
    elif what == "seed":
        return replace(request, model=replace(request.model, untrained_seed=0))
    return request


@pytest.mark.parametrize(
    "what", ["weights", "configuration", "file", "corpus", "context", "selection", "seed"]
)
def test_whatever_may_change_the_plan_changes_the_key(request_: CaptureRequest, what: str) -> None:
    before = request_key(request_)
    assert request_key(changed(request_, what)) not in (None, before)


@pytest.mark.parametrize(
    "name", ["own.jinja", "counter/tokenizer.json", "model/tokenizer.json", "texts/b.txt"]
)
@pytest.mark.parametrize("how", ["edited", "renewed"])
def test_an_edited_file_that_the_request_reads_changes_its_key(
    request_: CaptureRequest, tmp_path: Path, name: str, how: str
) -> None:
    (tmp_path / "own.jinja").write_text("{{ messages }}")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "b.txt").write_text("a dog")
    shutil.copytree(request_.model.id, tmp_path / "counter")
    request = replace(
        request_,
        corpus=CorpusSpec(name=f"{tmp_path}/texts", chat_template=f"{tmp_path}/own.jinja"),
        selection=Selection(min_tokens=2, count_with=f"{tmp_path}/counter"),
    )
    before, file = request_key(request), tmp_path / name
    assert before == request_key(request)
    if how == "edited":
        file.write_text(file.read_text() + " ")
    else:  # as long as before
        os.utime(file, ns=(1, 1))
    assert request_key(request) not in (None, before)


NO_PLAN = {("corpus", "fields"), ("corpus", "keep_texts"), (None, "name")}
"""Fields that decide no plan."""
OF_FILES = {("model", "id"), ("corpus", "name"), ("corpus", "chat_template")}
TOGETHER = {("selection", "min_tokens"), ("selection", "count_with")}
PARTS = ("model", "corpus", "selection")


def other(value: Any) -> Any:
    """Another value of a field's type, as far as its value tells that."""
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case dict():
            return {"x": 1}
        case tuple():
            return (*value, "x")
        case "first":
            return "random"
    return f"{value}x"


def test_every_field_of_a_request_is_in_its_key(request_: CaptureRequest) -> None:
    before, seen = request_key(request_), []
    for part in (*PARTS, None):
        owner: Any = request_ if part is None else getattr(request_, part)
        for name in {field.name for field in fields(owner)} - ({*PARTS} if part is None else set()):
            if (part, name) in OF_FILES | TOGETHER:
                continue
            written = ContinuationSpec(tokens=2)
            value = written if name == "continuation" else other(getattr(owner, name))
            one: Any = replace(owner, **{name: value})
            key = request_key(one if part is None else replace(request_, **{part: one}))
            assert (key == before) == ((part, name) in NO_PLAN), (part, name)
            seen.append(name)
    assert len(seen) > 30
    counted = replace(request_.selection, min_tokens=1, count_with=request_.model.id)
    keys = [
        request_key(replace(request_, selection=replace(counted, min_tokens=n))) for n in (1, 2)
    ]
    assert len({before, *keys}) == 3


def test_doubt_gives_no_key(request_: CaptureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    branch = CorpusSpec(name="alpaca", revision="main")
    assert request_key(replace(request_, corpus=branch)) is None
    pinned = CorpusSpec(name="alpaca", revision="a" * 40)
    assert request_key(replace(request_, corpus=pinned)) is not None
    assert request_key(replace(request_, corpus=CorpusSpec(name="alpaca"))) is not None
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("nobody/nothing", "./no-such-folder", "", "no\0name"):
        assert request_key(replace(request_, model=ModelSpec(id=name))) is None


def test_what_is_done_is_found_by_shards_not_by_the_note(
    request_: CaptureRequest, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    assert finished(root, request_, WHOLE) is None  # no store
    create_store(root)
    assert finished(root, request_, WHOLE) is None  # no note
    first = capture_into(root, request_)
    assert (first.idle, first.missing) == (False, 0)
    assert first.captured >= 3
    found = finished(root, request_, WHOLE)
    assert found is not None
    assert (found.run, found.idle, found.tokens) == (first.run, True, 0)
    shutil.rmtree(on_disk(open_store(root).runs[first.run].shards[1].path))
    assert finished(root, request_, WHOLE) is None
    part = finished(root, request_, Part(0, 2))  # the part without the missing shard
    assert part is not None
    assert part.missing == 1
    assert finished(root, request_, Part(1, 2)) is None
    shutil.rmtree(root / "runs" / first.run)
    assert finished(root, request_, WHOLE) is None


def test_a_note_is_written_once_and_a_damaged_one_is_no_answer(
    request_: CaptureRequest, tmp_path: Path
) -> None:
    store = create_store(tmp_path / "store")
    key = request_key(request_)
    requests = on_disk(store.path) / REQUESTS_KEY
    requests.mkdir()
    (requests / ended_name(f"{key}.json")).write_text("cut sho")  # its writer was killed
    remember(store, key, "a-run")
    (note,) = requests.iterdir()
    inode = note.stat().st_ino
    remember(store, key, "a-run")
    assert note.stat().st_ino == inode
    note.write_text("[]")
    assert finished(store.path, request_, WHOLE) is None
    remember(store, None, "another-run")
    assert [path.name for path in requests.iterdir()] == [note.name]


@pytest.mark.slow
@pytest.mark.parametrize("cached", [True, False])
def test_a_complete_run_is_swept_unless_a_repair_is_at_work(
    request_: CaptureRequest, tmp_path: Path, cached: bool
) -> None:
    root = tmp_path / "store"
    run_id = capture_into(root, request_).run
    shards = on_disk(open_store(root).runs[run_id].path) / "shards"
    left = shards / "00000" / ("ab" * 8)
    left.mkdir()
    (left / "tokens.arrow").write_bytes(b"of an attempt that lost")

    def again() -> None:
        if cached:
            assert skip_finished(root, request_, WHOLE) is not None
        else:
            assert capture_into(root, request_).idle

    assert finished(root, request_, WHOLE) is not None
    with at_work(shards, "repair"):
        again()
    assert left.exists()
    again()
    assert not left.exists()
    assert open_store(root).runs[run_id].verify() == []


@pytest.mark.slow
def test_a_resumed_capture_lists_its_shards_once_before_it_writes(
    request_: CaptureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "store"
    run_id = capture_into(root, request_).run
    shutil.rmtree(on_disk(open_store(root).runs[run_id].shards[1].path))
    looked: list[Sequence[int]] = []
    look = Run.uncommitted

    def counted(run: Run, indices: Sequence[int], *more: Any) -> list[int]:
        looked.append(indices)
        return look(run, indices, *more)

    monkeypatch.setattr(Run, "uncommitted", counted)
    assert capture_into(root, request_).captured == 1
    assert len([indices for indices in looked if len(indices) > 1]) == 1


AGAIN = """
import sys
from lpp.capture.cli.command import main

try:
    main(sys.argv[1:])
except SystemExit as end:
    print(end.code, "torch" in sys.modules, "zarr" in sys.modules)
"""


@pytest.mark.slow
def test_the_same_command_again_loads_no_torch(request_: CaptureRequest, tmp_path: Path) -> None:
    words: list[Any] = ["run", "--model", request_.model.id, "--corpus", request_.corpus.name]
    words += ["--store", tmp_path / "store", "--prompts", 4, "--min-bytes", 0, "--context", 20]
    ended = [
        subprocess.run(
            [sys.executable, "-c", AGAIN, *map(str, words)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for _ in range(2)
    ]
    assert [lines[-1].split()[:2] for lines in ended] == [["0", "True"], ["0", "False"]]
    assert ended[0][0].endswith(" is complete.")
    assert {lines[1] for lines in ended} == {f"Next: lpp-analyze profile {tmp_path / 'store'}"}


def test_a_model_in_memory_is_found_again_by_its_key(
    request_: CaptureRequest, tmp_path: Path
) -> None:
    root, key = tmp_path / "store", "0123456789abcdef"
    model = load_model(request_.model)
    loaded = LoadedModel(module=model.module, tokenizer=model.tokenizer, name="changed")
    with torch.no_grad():
        model.module.get_input_embeddings().weight[3] += 1
    of_loaded = replace(request_, model=loaded_spec(loaded))
    assert finished(root, request_, WHOLE, key) is None
    run = capture_into(root, of_loaded, given=InMemory(model=loaded, key=key)).run
    found = finished(root, request_, WHOLE, key)
    assert found is not None
    assert (found.run, found.idle) == (run, True)
    assert finished(root, request_, WHOLE) is None  # the model of the files is another
    assert finished(root, request_, WHOLE, "another") is None
