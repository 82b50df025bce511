"""From an evaluation to what tells right from wrong: features against transformers' own numbers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from eval_tasks import document, write_task
from evaluated_items import row_features

from lpp.analyze import build_database
from lpp.analyze.cli.command import main as lpp_analyze
from lpp.analyze.evaluations.evaluated import EvaluatedItems, evaluated_items
from lpp.analyze.evaluations.features import item_features
from lpp.analyze.evaluations.lens import ItemLens, lens_of
from lpp.analyze.evaluations.rows import read_rows
from lpp.capture.cli.command import main
from lpp.sql import connect, saved_query

ITEMS = 60


@pytest.fixture(scope="module")
def model(tiny_folder: Callable[[str], Path]) -> Path:
    return tiny_folder("llama")


@pytest.fixture(scope="module", params=["multiple_choice", "generate_until"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(str(request.param))
    write_task(path, str(request.param), items=ITEMS, task="tiny")
    return path


@pytest.fixture(scope="module")
def root(model: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("items") / "store"
    words = ["eval", "--model", model, "--tasks", folder, "--store", path, "--sites", "*"]
    words += ["--dtype", "float32", "--group", "subject", "--context", 60]
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture(scope="module")
def read(root: Path) -> EvaluatedItems:
    return evaluated_items(root, "tiny")


@pytest.mark.slow
def test_features_are_those_of_the_model(read: EvaluatedItems, model: Path) -> None:
    assert len(read.table) == ITEMS
    assert not read.left_out
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    network = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
    found = item_features(read) | row_features(read, "final")
    multiple = read.table["gold"].is_not_null().all()
    for place in (0, 7, 31):
        one: dict[str, Any] = document(place)
        question = f"Q: {one['question']} A:" if multiple else one["question"]
        context = tokenizer(question, return_tensors="pt").input_ids
        with torch.no_grad():
            out = network(context, output_hidden_states=True)
        logp = out.logits[0, -1].double().log_softmax(-1)
        first, second = logp.sort(descending=True).values[:2].tolist()
        wanted = {
            "answer_entropy": float(-(logp.exp() * logp).sum()),
            "answer_margin": first - second,
            "row_norm": float(out.hidden_states[-1][0, -1].double().norm()),
        }
        for name, value in wanted.items():
            assert found[name][place] == pytest.approx(value, abs=2e-4), name
    chosen = [some[k] for some, k in zip(read.table["logprobs"], read.table["chosen"], strict=True)]
    assert found["chosen_logprob"].tolist() == chosen


@pytest.mark.slow
def test_the_lens_is_that_of_the_model(read: EvaluatedItems, model: Path) -> None:
    network = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
    n_blocks = network.config.num_hidden_layers
    blocks = [f"block.{k}" for k in range(1, n_blocks + 1)]
    lens = lens_of(read, blocks)
    assert isinstance(lens, ItemLens)
    tokens = read.view.prompts["token_ids"]
    table = read.table
    found = [lens.features(site, read_rows(read, site)[0]) for site in blocks]
    depths = lens.of_items()["agreement_depth"]
    for place in range(ITEMS):
        ids = tokens[table["prompt_id"][place]].to_list()[: table["answer"][place] + 1]
        with torch.no_grad():
            states = network.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
            # the last of them is past the norm
            after = [network.model.norm(state[0, -1]) for state in states[1:-1]]
            logits = network.lm_head(torch.stack([*after, states[-1][0, -1]]))
        log_p = logits.double().log_softmax(-1).numpy()
        top = log_p[-1].argmax()
        first = table["first_tokens"][place].to_list()
        chosen = first[table["chosen"][place]]
        for k, of_block in enumerate(found):
            assert of_block["lens_logprob"][place] == pytest.approx(log_p[k][top], abs=1e-3)
            if len({*first}) > 1:
                share = np.exp(log_p[k][chosen]) / np.exp(log_p[k][[*{*first}]]).sum()
                assert of_block["lens_share"][place] == pytest.approx(share, abs=1e-3)
        others = [k for k in range(1, n_blocks + 1) if log_p[k - 1].argmax() != top]
        assert depths[place] == (max(others, default=0) + 1) / n_blocks


@pytest.mark.slow
def test_the_command(root: Path, read: EvaluatedItems) -> None:
    right = int(read.table["right"].sum())
    done = CliRunner().invoke(
        lpp_analyze, ["items", str(root), "--task", "tiny", "--format", "json"]
    )
    if read.table["gold"].is_null().all():  # a random model writes no right answer
        assert (right, done.exit_code, done.stdout) == (0, 2, "")
        return
    assert done.exit_code == 0, done.output
    tables = json.loads(done.stdout)["tables"]
    (found,), features = tables["item_analyses"], tables["item_features"]
    assert (found["n_right"], found["n_wrong"], found["n_groups"]) == (right, ITEMS - right, 2)
    gold = {row["feature"]: row["auroc"] for row in features if row["role"] == "gold"}
    assert gold["gold_logprob"] > 0.6  # by construction: a right answer is the likelier one
    sites = {row["site"] for row in features} - {None, "", "embed"}  # one token before answers
    assert np.isfinite([row["auroc"] for row in features if row["site"] in sites]).all()


@pytest.mark.slow
def test_saved_queries_find_question_and_answer(root: Path, read: EvaluatedItems) -> None:
    build_database(root)
    features, right = item_features(read), read.table["right"].to_numpy()
    with connect(root) as connection:
        found = connection.sql(saved_query("right_and_wrong").text).pl().to_dicts()
        mistakes = connection.sql(saved_query("confident_mistakes").text).pl().to_dicts()
    shared = {row["feature"]: row for row in found if row["feature"] in features}
    assert len(shared) == 6
    for name, row in shared.items():
        assert row["mean_wrong"] == pytest.approx(features[name][~right].mean(), rel=1e-3), name
    assert len(mistakes) == 10
    for row in mistakes:
        one: dict[str, Any] = document(row["item"])
        if read.table["gold"].is_not_null().all():
            assert row["question"].endswith(f"Q: {one['question']} A:")
            assert row["gold"] == f" {one['choices'][one['gold']]}"
            assert row["chosen"] != row["gold"]
        else:
            assert row["question"].endswith(one["question"])
