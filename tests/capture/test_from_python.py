"""`lpp.capture.capture`: the plan and the bytes of the command, and how it is called."""

import inspect
import json
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from loaded_models import SETTINGS, TEXTS, Load, tokenizer_of
from stored import only_run, stored_objects

from lpp.capture import capture
from lpp.capture.cli.command import main
from lpp.capture.plan.settings import CaptureSettings
from lpp.store import Run
from lpp.store.errors import InputError
from lpp.store.format.plan import plan_differences
from lpp.store.settings.setting import declared

Folder = Callable[[str], Path]


@pytest.fixture
def corpus_file(tmp_path: Path) -> Path:
    file = tmp_path / "corpus.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return file


def command(*words: object) -> None:
    done = CliRunner().invoke(main, ["run", *map(str, words)])
    assert done.exit_code == 0, done.output


# --- the command's plan and bytes ---


@pytest.mark.slow
def test_a_name_gives_the_run_and_the_bytes_of_the_command(
    tiny_folder: Folder, corpus_file: Path, tmp_path: Path
) -> None:
    folder = tiny_folder("qwen2")
    options = ("--prompts", 9, "--min-bytes", 0, "--context", 20, "--sites", "final,block.*")
    command(
        "--model", folder, "--corpus", corpus_file, "--store", tmp_path / "of-command", *options
    )
    run = capture(
        folder,
        corpus_file,
        store=tmp_path / "of-python",
        min_bytes=0,
        sites=("final", "block.*"),
        **{**SETTINGS, "prompts": np.int64(9)},
    )
    expected = only_run(tmp_path / "of-command")
    assert isinstance(run, Run)
    assert (run.id, run.missing_shards) == (expected.id, ())
    assert run.plan.prompts.count == 9
    assert stored_objects(run.path) == stored_objects(expected.path)


@pytest.mark.slow
def test_a_loaded_model_gives_the_bytes_of_the_command(
    load: Load, family: str, corpus_file: Path, tmp_path: Path
) -> None:
    dtype = torch.float32 if family == "llama" else torch.bfloat16  # of files in float32
    model = load(family, dtype=dtype)
    words = ("--model", model.config._name_or_path, "--corpus", corpus_file)
    options = ("--prompts", 12, "--min-bytes", 0, "--context", 20, "--dtype", str(dtype)[6:])
    command(*words, *options, "--store", tmp_path / "of-command")
    run = capture(
        model,
        tokenizer_of(model),
        str(corpus_file),
        store=tmp_path / "of-python",
        prompts=12,
        min_bytes=0,
        **SETTINGS,
    )
    expected = only_run(tmp_path / "of-command")
    (other,) = plan_differences(run.plan, expected.plan)
    assert other.startswith("model.weights: ")
    ours, theirs = ({**stored_objects(one.path)} for one in (run, expected))
    of_plan = {key for key in ours if key.endswith(("plan.json", "COMMIT.json"))}
    assert {key for key in ours if ours[key] != theirs.get(key)} == of_plan


@pytest.mark.slow
def test_a_model_of_the_hub_has_its_name(load: Load, tmp_path: Path) -> None:
    model = load()
    tokenizer = tokenizer_of(model)
    model.config._name_or_path = "lab/tiny"
    plan = capture(model, tokenizer, TEXTS, store=tmp_path / "s", **SETTINGS).plan
    folder = capture(load(), tokenizer, TEXTS, store=tmp_path / "t", **SETTINGS).plan
    assert plan.model.id == "lab/tiny"
    assert plan.model.weights == folder.model.weights


@pytest.mark.slow
def test_the_same_call_computes_nothing_again(
    load: Load, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    first = capture(load(), tiny_tokenizer, TEXTS, store=tmp_path / "s", **SETTINGS)
    before = stored_objects(first.path)
    again = capture(load(), tiny_tokenizer, iter(TEXTS), store=tmp_path / "s", **SETTINGS)
    assert again.id == first.id
    assert stored_objects(again.path) == before


# --- the call ---


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (("m", "pydoc"), {"promts": 3}, "no option 'promts'. Did you mean prompts?"),
        (("m", "pydoc"), {"tokenizer": 1}, "no option 'tokenizer'"),
        (
            ("m", "pydoc", TEXTS),
            {},
            r"brings its tokenizer. Call capture\(model, corpus, store=...\)",
        ),
        (("m",), {}, "no corpus"),
        (("m", "pydoc"), {"corpus": "pydoc"}, "corpus twice"),
        ((object(), TEXTS), {}, r"no texts. Call capture\(model, tokenizer, texts, store=...\)"),
        ((), {}, "no model"),
    ],
)
def test_a_call_of_another_shape_says_how_to_call(
    given: tuple[Any, ...], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match=message):
        capture(*given, store=tmp_path / "s", **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"prompts": "ten", "keep_head": "all"},
            "prompts should be an integer or 'all', is 'ten'; keep_head: 'all'",
        ),
        ({"prompts": 0}, "prompts: 0 is not in the range"),
        (
            {"context": 500},
            "context=500 is beyond llama, which has 96 positions. Choose context=96",
        ),
        ({"context": 9, "sites": ["final", "nose"]}, "no site 'nose'.* Choose with sites, such as"),
        ({"temperature": 0.5}, "temperature .* needs continue_tokens"),
        ({"dtype": torch.float64}, "dtype: 'float64' is not one of"),
        ({"name": "my/run"}, "name 'my/run': give 1 to 200 bytes"),
        ({"corpus_name": "mine"}, "corpus_name: it is for texts in memory"),
    ],
)
def test_a_wrong_value_is_an_error_in_words_of_python(
    options: dict[str, Any], message: str, tiny_folder: Folder, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        capture(tiny_folder("llama"), "pydoc", store=tmp_path / "s", quiet=True, **options)
    assert not (tmp_path / "s").exists()


def test_the_options_that_are_typed_have_the_defaults_of_the_command() -> None:
    options = {one.keyword: one for one in declared(CaptureSettings).values()}
    for overload in typing.get_overloads(capture):
        typed = inspect.signature(overload).parameters.keys() & options.keys() - {"model", "corpus"}
        assert typed == {"name", "prompts", "context", "sites"}
        for name in typed - {"name", "prompts"}:  # 100, or all texts in memory
            default = inspect.signature(overload).parameters[name].default
            assert options[name].values.made(default) == options[name].default


@pytest.mark.slow
def test_a_script_sees_one_line_and_the_messages_that_it_asks_for(
    load: Load, tiny_tokenizer: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {"store": tmp_path / "s", "context": 20}
    capture(load(), tiny_tokenizer, TEXTS, **asked)
    said = capfd.readouterr()
    assert said.out == ""
    assert re.fullmatch(r"capture: [\d,]+ tokens. quiet=False shows progress.*\n", said.err)
    for quiet in (None, True):
        capture(load(), tiny_tokenizer, TEXTS, **asked, quiet=quiet)  # the run is complete
        assert capfd.readouterr() == ("", "")
    capture(load(), tiny_tokenizer, TEXTS, **asked | {"context": 10}, quiet=False)
    said = capfd.readouterr()
    assert said.out == ""
    assert "12 prompts of texts" in said.err
    assert "shard 1 of 1 committed" in said.err
    assert "is complete. Next: lpp-analyze profile" in said.err.replace("\n", " ")
    capture(
        load(),
        tiny_tokenizer,
        TEXTS,
        store=tmp_path / "t",
        **SETTINGS,
    )
    assert capfd.readouterr() == ("", "")
