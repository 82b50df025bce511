"""What a user gets wrong is one message that says what, where and the next command; exit code 2."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
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
    """One message on stderr, and nothing that looks like a bug."""
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith(("Error: ", "Usage: ")), result.stderr
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


def test_unknown_model(capture: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused(capture(model="./no-such-folder"), "no-such-folder")
    refused(capture(model="nobody/nothing"), "nobody/nothing")


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
    refused(capture("--prompts", 7), "7", "6", "--prompts")


def test_a_folder_that_is_not_a_store(capture: Run, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.doc").write_text("mine")
    refused(capture(), "not an lpp store", "--store")
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["thesis.doc"]


def test_a_newer_store_format(capture: Run, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / ROOT_KEY).write_text('{"format": "lpp-store", "version": 2}')
    refused(capture(), "format 2", "reads 1")


def test_a_plan_that_differs_from_the_run_being_resumed(capture: Run, tmp_path: Path) -> None:
    assert capture().exit_code == 0
    (run_id,) = open_store(tmp_path / "store").runs
    assert capture("--resume", run_id).exit_code == 0
    refused(capture("--resume", run_id, "--context", 20), run_id, "context: 20, not 24")
    assert list(open_store(tmp_path / "store").runs) == [run_id]
    refused(capture("--resume", "other-12345678"), "other-12345678", run_id)


def test_resuming_in_a_store_that_is_not_there_makes_none(capture: Run, tmp_path: Path) -> None:
    refused(capture("--resume", "a-12345678"), "not an lpp store")
    assert not (tmp_path / "store").exists()


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
    commit = run.shards[0].path / "COMMIT.json"
    commit.write_bytes(commit.read_bytes()[:-20])
    assert stored_objects(run.path) != before
    assert capture(*options).exit_code == 0
    assert stored_objects(run.path) == before
    (run,) = open_store(tmp_path / "store").runs.values()
    assert [shard.digest for shard in run.shards[1:]] == others


@pytest.mark.parametrize("options", [("--no-such",), ("--prompts", "many"), ("--dtype", "int3")])
def test_a_typo_on_the_command_line(capture: Run, options: tuple[str, ...]) -> None:
    refused(capture(*options), options[-1])
