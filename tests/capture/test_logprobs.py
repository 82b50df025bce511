"""`lpp-capture import --from logprobs`, beside a captured run of the same tokens."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from lpp.analyze import diff
from lpp.analyze.cli.command import main as analyze
from lpp.capture import capture
from lpp.capture.cli.command import main
from lpp.store import Run, open_store

TEMPERATURE = 0.5


@pytest.fixture(scope="module")
def model(tiny_model: Callable[[str], Any]) -> Any:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    draw = np.random.default_rng(0)
    return [draw.integers(3, 131, size).tolist() for size in (9, 14, 5, 20)]


@pytest.fixture(scope="module")
def answers(model: Any, prompts: list[list[int]]) -> list[torch.Tensor]:
    """The ln p of every token after each position, of an engine that divides logits: (n, V)."""
    with torch.no_grad():
        logits = [model(torch.tensor([ids])).logits[0].double() for ids in prompts]
    return [(one / TEMPERATURE).log_softmax(dim=1) for one in logits]


@pytest.fixture(scope="module")
def captured(model: Any, prompts: list[list[int]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    store = tmp_path_factory.mktemp("captured") / "store"
    records = [{"input_ids": ids} for ids in prompts]
    return capture(model, None, records, store=store, name="engine-a", sites=["final"], context=96)


def line(ids: list[int], logprobs: torch.Tensor, form: str) -> dict[str, Any]:
    """One sequence as the file has it."""
    of_tokens = [None, *(float(logprobs[k, token]) for k, token in enumerate(ids[1:]))]
    best = [one.topk(2) for one in logprobs[:-1]]
    tops = [list(zip(b.indices.tolist(), b.values.tolist(), strict=True)) for b in best]
    if form == "pairs":
        return {"token_ids": ids, "logprobs": of_tokens, "top_logprobs": [None, *tops]}
    if form == "objects":
        return {"token_ids": ids, "logprobs": of_tokens, "top_logprobs": [None, *map(dict, tops)]}
    if form == "rollout":
        more = {"prompt_token_ids": ids[:3], "token_ids": ids[3:], "logprobs": of_tokens[3:]}
        return more | {"top_logprobs": tops[2:]}
    entries: list[Any] = [None]
    for token, logprob, row in zip(ids[1:], of_tokens[1:], logprobs, strict=False):
        ranked = {token: {"logprob": logprob, "rank": int((row > row[token]).sum()) + 1}}
        top = int(row.argmax())
        entries.append({top: {"logprob": float(row[top]), "rank": 1}} | ranked)
    return {"prompt_token_ids": ids, "prompt_logprobs": entries}


def command(*words: object) -> Result:
    return CliRunner().invoke(main, ["import", *map(str, words)])


def imported(folder: Path, store: Path, lines: list[str]) -> Run:
    file = folder / "answers.jsonl"
    file.write_text("\n".join(lines) + "\n")
    done = command(file, "--from", "logprobs", "--store", store, "--model", "lab/engine-b")
    assert done.exit_code == 0, done.output
    name = done.stdout.split(":")[0]
    return open_store(store).runs[name]


@pytest.mark.parametrize("form", ["pairs", "objects", "vllm", "rollout"])
def test_a_file_is_a_run_that_diff_compares(
    form: str,
    captured: Run,
    prompts: list[list[int]],
    answers: list[torch.Tensor],
    tmp_path: Path,
) -> None:
    lines = [json.dumps(line(*pair, form)) for pair in zip(prompts, answers, strict=True)]
    run = imported(tmp_path, tmp_path / "s", lines)
    assert run.verify() == []
    first = 2 if form == "rollout" else 0  # the prompt's tokens have no ln p
    tokens = run.tokens().to_table()
    start = 0
    for ids, logprobs in zip(prompts, answers, strict=True):
        found = tokens.slice(start, len(ids)).to_pydict()
        own = [float(logprobs[k, token]) for k, token in enumerate(ids[1:])]
        expected = [None] * first + own[first:] + [None]
        for mine, theirs in zip(found["next_logprob"], expected, strict=True):
            assert mine == (None if theirs is None else pytest.approx(theirs, rel=1e-6))
        best = logprobs.argmax(dim=1).tolist()[:-1]
        assert found["top1_id"] == [None] * first + best[first:] + [None]
        assert found["max_logprob"][first] == pytest.approx(float(logprobs[first].max()), rel=1e-6)
        assert found["entropy"] == found["margin"] == [None] * len(ids)
        start += len(ids)
    store = captured.path.parent.parent
    drift = diff(str(store), captured.id, f"{tmp_path / 's'}::{run.id}")
    mean = drift.predictions["next_logprob"]
    changes = []
    for ids, sharp in zip(prompts, answers, strict=True):
        plain = (sharp * TEMPERATURE).log_softmax(dim=1)
        changes += [float(abs(sharp - plain)[k, t]) for k, t in enumerate(ids[1:]) if k >= first]
    assert mean.mean == pytest.approx(np.mean(changes), rel=1e-5)
    assert mean.n_tokens == len(changes)
    assert drift.predictions["flips"].mean == 0  # a temperature leaves the order
    assert drift.sites == []
    assert drift.no_logits is not None


def test_the_page_of_a_run_without_rows(
    captured: Run, prompts: list[list[int]], answers: list[torch.Tensor], tmp_path: Path
) -> None:
    lines = [json.dumps(line(*pair, "pairs")) for pair in zip(prompts, answers, strict=True)]
    run = imported(tmp_path, tmp_path / "s", lines)
    words = ["diff", str(captured.path.parent.parent), captured.id, f"{tmp_path / 's'}::{run.id}"]
    for more in ([], ["--all"], ["-o", str(tmp_path / "x.html")], ["--format", "json"]):
        done = CliRunner().invoke(analyze, words + more)
        assert done.exit_code == 0, done.output
    sites = CliRunner().invoke(analyze, [*words, "--sites", "final"])
    assert sites.exit_code == 2
    assert "no site in common" in sites.output
    profile = CliRunner().invoke(analyze, ["profile", str(tmp_path / "s")])
    assert profile.exit_code == 2
    assert "no run holds hidden states" in profile.output


def test_requests_that_a_connector_wrote_have_the_bits_of_a_capture(
    model: Any, prompts: list[list[int]], tmp_path: Path
) -> None:
    """A file for each request, as vLLM's ExampleHiddenStatesConnector writes: layers 1 and 2."""
    sites, records = ["block.1", "block.2"], [{"input_ids": ids} for ids in prompts]
    ours = capture(
        copy.deepcopy(model).bfloat16(), None, records,
        store=tmp_path / "ours", name="a", sites=sites, context=96,
    )  # fmt: skip
    (tmp_path / "served").mkdir()
    names = [f"{9 + k}-{9 - k}" for k in range(len(prompts))]  # of offline requests 9 to 12
    both = [torch.tensor(ours.array(site)[:].astype(np.float32)).bfloat16() for site in sites]
    start = 0
    for k, ids in enumerate(prompts):
        part = slice(start, start := start + len(ids))
        states = torch.stack([rows[part] for rows in both], dim=1)
        name = tmp_path / "served" / f"{names[k]}.safetensors"
        save_file({"hidden_states": states.contiguous(), "token_ids": torch.tensor(ids)}, name)
        name.with_suffix(".safetensors.lock").touch()
    words = ("--store", tmp_path / "theirs", "--model", "b", "--layers", "1,2", "--blocks", "2")
    done = command(tmp_path / "served", "--from", "vllm-connector", *words)
    assert done.exit_code == 0, done.output
    (run,) = open_store(tmp_path / "theirs").runs.values()
    assert [*run.sites] == sites
    drift = diff(str(tmp_path / "ours"), ours.id, f"{tmp_path / 'theirs'}::{run.id}")
    assert [site.relative_distance.value for site in drift.sites] == [0, 0]
    for layers, blocks in (("2,1", "2"), ("1,2,3", "3"), ("1,1", "2")):
        wrong = (*words[:4], "--layers", layers, "--blocks", blocks)
        refused = command(tmp_path / "served", "--from", "vllm-connector", *wrong)
        assert refused.exit_code == 2
        assert "2 layers are stored for each token" in refused.output
    (tmp_path / "none").mkdir()
    empty = command(tmp_path / "none", "--from", "vllm-connector", *words)
    assert empty.exit_code == 2
    assert "no .safetensors here" in empty.output


def test_other_numbers_of_the_same_tokens_are_another_run(tmp_path: Path) -> None:
    ids = {"token_ids": [5, 6, 7]}
    runs = [
        imported(tmp_path, tmp_path / "s", [json.dumps(ids | {"logprobs": [None, -1, last]})])
        for last in (-2.0, -3.0, -2.0)
    ]
    assert runs[0].id == runs[2].id != runs[1].id
    assert runs[1].tokens().to_table()["next_logprob"].to_pylist() == [-1, -3, None]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "line 2: "),
        ("[]", "line 2: "),
        ("{}", "line 2: no token_ids"),
        ('{"token_ids": [1, 2], "logprobs": [null]}', "line 2: 2 token_ids, 1 logprobs"),
        ('{"token_ids": [1, "2"]}', "line 2: token_ids has '2', which is no whole number"),
        ('{"token_ids": [1, 2], "logprobs": [null, 0.5]}', "line 2: 0.5 should be ln p"),
        ('{"token_ids": [1, 2], "logprobs": [null, -Infinity]}', "line 2: -inf should be ln p"),
        ('{"token_ids": [1], "prompt_logprobs": [0]}', "line 2: 0 prompt_token_ids, 1 prompt_"),
    ],
)
def test_a_line_that_is_no_sequence_is_named(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text('{"token_ids": [1, 2], "logprobs": [null, -1]}\n' + text)
    done = command(file, "--from", "logprobs", "--store", tmp_path / "s", "--model", "m")
    assert done.exit_code == 2
    assert says in done.output
    assert not (tmp_path / "s").exists()
