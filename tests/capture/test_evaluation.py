"""Evaluation: scores are those of lm-eval's own `hf` model, and every pass is a captured run."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import eval_tasks
import numpy as np
import pytest
import transformers
from backend_contract import plain_forward, reference_statistics
from eval_tasks import by_lm_eval, write_task
from on_disk import on_disk

import lpp.analyze
from lpp.analyze.drift.pair import pair_of
from lpp.analyze.questions import ScoreSettings
from lpp.analyze.runs import select
from lpp.analyze.runs.keys import RunView
from lpp.analyze.scores.scores import add_benchmarks, benchmarks_table
from lpp.capture.backends.open import open_backend
from lpp.capture.corpus.selection import Selection
from lpp.capture.engine.run import capture_into
from lpp.capture.evaluation.evaluate import Evaluated, evaluate_into
from lpp.capture.evaluation.request import EvalRequest
from lpp.capture.evaluation.scores import run_of_profile, scored_name, source_name
from lpp.capture.evaluation.sequences import EncodedRequest, answers_of
from lpp.capture.models.spec import ModelSpec
from lpp.capture.plan.from_plan import RepairOptions, check_same, request_of_plan
from lpp.capture.plan.request import CaptureRequest, CorpusSpec
from lpp.store import Run, open_store, read_scores
from lpp.store.errors import ConflictError, FormatError
from lpp.store.format.plan import Plan
from lpp.store.scores.items import read_items
from lpp.store.scores.scores import score_sets

CONTEXT = 32
"""Of a prompt: some texts and some contexts with shots are longer."""

CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task of each output type."""
    folder = tmp_path_factory.mktemp("tasks")
    for kind in ("multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until"):
        write_task(folder, kind)
    return folder


@pytest.fixture(scope="module")
def model(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose tokenizer has a chat template."""
    folder = tmp_path_factory.mktemp("chat") / "tiny"
    source = tiny_folder("llama")
    transformers.AutoModelForCausalLM.from_pretrained(source).save_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return folder


def request(model: Path, tasks: Sequence[object], **changes: Any) -> EvalRequest:
    fields = changes.pop("fields", ())
    capture = CaptureRequest(
        model=ModelSpec(id=str(model), dtype="float32"),
        corpus=CorpusSpec(name="lm-eval", fields=fields),
        selection=Selection(prompts=1, min_bytes=0),
        context=1,
        sites=("final",),
        backend="torch",
        **changes.pop("capture", {}),
    )
    settings = {"context": CONTEXT, **changes}
    return EvalRequest(capture=capture, tasks=tuple(map(str, tasks)), **settings)


def expected(model: Path, tasks: Path, **options: Any) -> dict[str, Any]:
    return by_lm_eval(
        transformers.AutoModelForCausalLM.from_pretrained(model).eval(),
        transformers.AutoTokenizer.from_pretrained(model),
        tasks,
        max_length=CONTEXT - 1,
        **options,
    )


def same_scores(root: Path, done: Evaluated, hf: dict[str, Any]) -> None:
    """Every score, and every answer's log-likelihood, is lm-eval's."""
    rows = {(row["benchmark"], row["metric"]): row for row in read_scores(root).to_pylist()}
    theirs = {
        (task, name): value
        for task, entry in hf["results"].items()
        for name, value in entry.items()
        if "," in name and "_stderr" not in name
    }
    assert rows.keys() == theirs.keys()
    for key, row in rows.items():
        close = 1e-12 if key[1].startswith(("acc", "exact")) else 1e-4
        assert row["value"] == pytest.approx(theirs[key], rel=close), key
    items = {(row["task"], row["item"]): row for row in read_items(root).to_pylist()}
    assert len(items) == sum(len(samples) for samples in hf["samples"].values())
    for task, samples in hf["samples"].items():
        for sample in samples:
            ours = items[task, sample["doc_id"]]
            if task == "tiny_gen":
                continue
            found = [answer for (answer,) in sample["resps"]]
            if task == "tiny_roll":
                assert sum(ours["log_likelihoods"]) == pytest.approx(found[0], abs=1e-4)
            else:
                assert ours["log_likelihoods"] == pytest.approx([v for v, _ in found], abs=1e-5)
                assert ours["greedy"] == [greedy for _, greedy in found]
    assert {result.model for result in done.results} == {done.model}


@pytest.fixture(scope="module")
def evaluated(
    model: Path, tasks: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Evaluated]:
    """A store with an evaluation of all four tasks."""
    root = tmp_path_factory.mktemp("evaluated") / "store"
    return root, evaluate_into(root, request(model, [tasks], fields=("subject",), group="subject"))


@pytest.mark.slow
def test_scores_of_every_output_type_are_those_of_lm_eval(
    evaluated: tuple[Path, Evaluated], model: Path, tasks: Path
) -> None:
    root, done = evaluated
    hf = expected(model, tasks)
    same_scores(root, done, hf)
    written = {sample["doc_id"]: sample["resps"] for sample in hf["samples"]["tiny_gen"]}
    (log,) = [lines for name, lines in logs(root).items() if "tiny_gen" in name]
    assert {line["doc_id"]: line["resps"] for line in log} == written


@pytest.mark.slow
@pytest.mark.parametrize("chat", [False, True])
def test_scores_with_shots_are_those_of_lm_eval(
    model: Path, tasks: Path, tmp_path: Path, chat: bool
) -> None:
    root = tmp_path / "store"
    some = [tasks / "tiny_mc.yaml", tasks / "tiny_ll.yaml"]
    done = evaluate_into(root, request(model, some, shots=2, chat=chat))
    options = {"apply_chat_template": chat, "fewshot_as_multiturn": chat}
    hf = expected(model, tasks, num_fewshot=2, **options)
    for part in ("results", "samples"):
        hf[part] = {name: hf[part][name] for name in ("tiny_mc", "tiny_ll")}
    same_scores(root, done, hf)
    cut = [run.prompts()["truncated"].to_pylist() for run in open_store(root).runs.values()]
    assert any(map(any, cut))  # the comparison covers requests that lose their beginning


def logs(root: Path) -> dict[str, list[dict[str, Any]]]:
    """lm-eval's records of items in the store, by file."""
    return {
        name: [json.loads(line) for line in data.decode().splitlines()]
        for found in score_sets(root)
        for name, data in found.original().items()
        if name.endswith(".jsonl")
    }


def run_of(root: Path, done: Evaluated, task: str) -> Run:
    (run,) = [result.run for result in done.results if result.task == task]
    assert run is not None
    return open_store(root).runs[run]


def test_each_task_is_a_run_whose_prompts_say_what_they_are(
    evaluated: tuple[Path, Evaluated],
) -> None:
    root, done = evaluated
    assert len(open_store(root).runs) == 4
    run = run_of(root, done, "tiny_mc")
    assert run.plan.corpus.name == "tiny_mc"
    names = ("task", "item", "choice", "n_context", "n_before_question", "subject")
    columns = ("id", *(f"field.{name}" for name in names))
    rows = run.prompts(*columns).to_pylist()
    assert [(row["field.item"], row["field.choice"]) for row in rows] == [
        (item, choice) for item in range(6) for choice in (None, 0, 1, 2, 3)
    ]
    assert {row["field.task"] for row in rows} == {"tiny_mc"}
    assert [row["field.subject"] for row in rows[:10:5]] == ["even", "odd"]
    assert rows[5]["id"] == "doc-1"


def test_answers_are_branches_of_the_context_that_they_share(
    evaluated: tuple[Path, Evaluated], model: Path
) -> None:
    root, done = evaluated
    run = run_of(root, done, "tiny_mc")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    names = ("branch_of", "branch_at", "field.n_context", "field.n_before_question")
    rows = run.prompts(*names).to_pylist()
    for place, row in enumerate(rows):
        context = rows[place // 5 * 5]
        if row is context:
            assert (row["branch_of"], row["branch_at"]) == (None, None)
            assert row["n_tokens"] == row["field.n_context"]
            assert row["field.n_before_question"] is not None
        else:
            at = context["n_tokens"] - 1
            assert (row["branch_of"], row["branch_at"]) == (context["prompt_id"], at)
            assert row["token_ids"][0] == context["token_ids"][-1]
            assert (row["field.n_context"], row["field.n_before_question"]) == (1, None)
            assert "A:" not in tokenizer.decode(row["token_ids"][1:])
    assert run.verify() == []
    assert json.loads((on_disk(run.path) / "COMMIT.json").read_text())["format"] == 4
    assert run.plan.compute.beginnings == "reused"
    assert run_of(root, done, "tiny_gen").plan.compute.beginnings is None
    # rows and statistics are those of context and answer together, in a pass of their own
    reference = transformers.AutoModelForCausalLM.from_pretrained(model).eval()
    tokens = run.tokens().to_table().to_pandas()
    final = {
        (prompt, position): values
        for block in run.blocks("final", branches=True)
        for prompt, position, values in zip(
            block.prompt_id.tolist(), block.position.tolist(), block.values, strict=True
        )
    }
    assert len(final) == run.plan.prompts.tokens
    for row in rows[:10]:
        before = [] if row["branch_of"] is None else rows[row["branch_of"]]["token_ids"]
        ids = [*before[: row["branch_at"] or 0], *row["token_ids"]]
        states, logits = plain_forward(reference, ids)
        mine = tokens[tokens.prompt_id == row["prompt_id"]]
        want = reference_statistics(logits, np.array([*ids[1:], -1]))["entropy"].to_numpy()
        np.testing.assert_allclose(mine.entropy, want[row["branch_at"] or 0 :], atol=1e-5)
        for position in range(row["n_tokens"]):
            np.testing.assert_allclose(
                final[row["prompt_id"], position],
                states["final"][position + (row["branch_at"] or 0)],
                atol=1e-5,
            )


@pytest.mark.slow
def test_a_backend_that_treats_beginnings_otherwise_does_not_repair_a_run(
    evaluated: tuple[Path, Evaluated], model: Path
) -> None:
    plan = run_of(*evaluated, "tiny_mc").plan
    asked = request_of_plan(plan, RepairOptions(model=str(model)))
    backend = open_backend(asked)

    def of(beginnings: Any) -> Plan:
        return replace(plan, compute=replace(plan.compute, beginnings=beginnings))

    check_same(plan, asked, backend)
    check_same(of(None), asked, backend)  # of an earlier release, which does not say
    with pytest.raises(ConflictError, match=r"compute\.beginnings: 'reused', not 'repeated'"):
        check_same(of("repeated"), asked, backend)


def test_what_is_of_prompts_leaves_branches_out(evaluated: tuple[Path, Evaluated]) -> None:
    root, done = evaluated
    run = run_of(root, done, "tiny_mc")
    contexts = [0, 5, 10, 15, 20, 25]
    assert {*np.concatenate([block.prompt_id for block in run.blocks("final")])} == {*contexts}
    view = RunView(run)
    assert np.flatnonzero(view.lengths).tolist() == contexts
    assert len(view.set_aside) == 0
    (line,) = select.shortfalls([view], lpp.analyze.Selection())
    assert "24 of 30 prompts" in line
    pair = pair_of(run, run)
    assert pair.n_tokens() == view.lengths.sum()


def test_items_name_the_prompt_of_each_answer(evaluated: tuple[Path, Evaluated]) -> None:
    root, done = evaluated
    items = [row for row in read_items(root).to_pylist() if row["task"] == "tiny_mc"]
    run = run_of(root, done, "tiny_mc")
    held = run.prompts("field.item", "field.choice", "field.n_context").to_pylist()
    tokens = run.tokens().to_table().to_pandas()
    for row in items:
        gold = row["item"] * 7 % 4
        assert (row["gold"], row["run"]) == (gold, run.id)
        assert row["item_group"] == ("even" if row["item"] % 2 == 0 else "odd")
        assert row["chosen"] == int(np.argmax(row["log_likelihoods"]))
        assert row["correct"] == (row["chosen"] == gold) == (json.loads(row["metrics"])["acc"] == 1)
        for choice, prompt in enumerate(row["prompt_ids"]):
            assert (held[prompt]["field.item"], held[prompt]["field.choice"]) == (
                row["item"],
                choice,
            )
            # the answer's tokens, by the plain rule: those after the context
            of_prompt = tokens[tokens.prompt_id == prompt].sort_values("position")
            before = of_prompt.iloc[held[prompt]["field.n_context"] - 1 : -1]
            assert before.next_logprob.sum() == pytest.approx(row["log_likelihoods"][choice])
            assert (before.next_rank == 1).all() == row["greedy"][choice]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["multiple_choice", "loglikelihood"])
def test_an_empty_context_is_the_prefix_token_as_in_lm_eval(
    model: Path, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "tasks").mkdir()
    texts = "{{'' if id == 'doc-3' else question}}"
    # with the prefix token in front, lm-eval's `hf` takes that one for the context
    answers = {"doc_to_choice": ["<s>the fox", "</s>", "a dog"], "doc_to_target": 1}
    changes: dict[str, Any] = {"target_delimiter": "", "doc_to_text": texts, "num_fewshot": 0}
    changes |= answers if kind == "multiple_choice" else {}
    write_task(tmp_path / "tasks", kind, **changes)
    done = evaluate_into(tmp_path / "store", request(model, [tmp_path / "tasks"]))
    same_scores(tmp_path / "store", done, expected(model, tmp_path / "tasks"))


def test_no_answer_is_read_from_another_prompt(evaluated: tuple[Path, Evaluated]) -> None:
    """Whatever a request says of itself: of every prompt the answer is read or refused."""
    root, done = evaluated
    run = run_of(root, done, "tiny_ll")
    rows = run.prompts("field.n_context").to_pylist()
    assert len(rows) > 2
    for place, row in enumerate(rows):
        ids, n = tuple(row["token_ids"]), row["field.n_context"]
        asked = EncodedRequest(context="", answer="", ids=ids, n_context=n)
        (answer,) = answers_of(run, [asked], [row["source_row"]])
        assert answer.prompt_id == place
        others = [replace(asked, n_context=0), replace(asked, n_context=-1)]
        others += [replace(asked, ids=(*ids, 1)), replace(asked, ids=ids[:-1])]
        others += [replace(asked, ids=(*ids[:-1], ids[-1] + 1))]
        for other in others:
            with pytest.raises(FormatError, match="verify"):
                answers_of(run, [other], [row["source_row"]])


def test_the_question_begins_after_the_shots(model: Path, tasks: Path, tmp_path: Path) -> None:
    done = evaluate_into(
        tmp_path / "s", request(model, [tasks / "tiny_mc.yaml"], shots=1, context=96, limit=2)
    )
    run = run_of(tmp_path / "s", done, "tiny_mc")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    columns = ("branch_of", "field.n_before_question", "field.n_context", "field.item")
    for row in run.prompts(*columns).to_pylist():
        if row["branch_of"] is not None:
            continue
        begin, end = row["field.n_before_question"], row["field.n_context"]
        item = row["field.item"]
        asked = str(tokenizer.decode(row["token_ids"][begin:end]))
        assert asked.strip() == f"Q: {item} or {item + 3}? A:"
        assert row["truncated"] is False


def test_a_run_of_an_evaluation_is_not_taken_for_the_run_of_a_corpus(
    evaluated: tuple[Path, Evaluated], model: Path, tmp_path: Path
) -> None:
    root = tmp_path / "store"
    shutil.copytree(evaluated[0], root)
    plan = run_of(root, evaluated[1], "tiny_mc").plan
    assert plan.task
    assert run_of_profile(open_store(root).runs, plan.model, "own") == "own"
    scores = tmp_path / "mine.csv"
    scores.write_text("model,planets\ntiny,0.5\n")
    assert add_benchmarks(root, [scores]).fits["tiny"].how == "several"
    (tmp_path / "texts.txt").write_text("the quick fox\n\nthe lazy dog\n")
    wanted = CaptureRequest(
        model=ModelSpec(id=str(model), dtype="float32"),
        corpus=CorpusSpec(name=str(tmp_path / "texts.txt")),
        selection=Selection(prompts=2, min_bytes=0),
        context=8,
        sites=("final",),
        backend="torch",
    )
    run = capture_into(root, wanted).run
    assert open_store(root).runs[run].plan.task is None
    assert run_of_profile(open_store(root).runs, plan.model, "own") == run
    assert add_benchmarks(root, [scores]).fits["tiny"].run == run
    store = open_store(root)
    every = benchmarks_table(store.path, store.runs.values()).to_pylist()
    assert {row["run"] for row in every if row["source"] == "mine"} == {run}


def test_logs_of_items_are_joined_to_the_prompts_that_were_captured(
    evaluated: tuple[Path, Evaluated], tmp_path: Path
) -> None:
    """As if the same files came from lm-eval elsewhere: texts are found again, by their tokens."""
    root, results = tmp_path / "store", tmp_path / "results"
    shutil.copytree(evaluated[0], root)
    for found in score_sets(root):
        for name, data in found.original().items():
            if not name.endswith(".arrow"):
                path = results / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data.replace(evaluated[1].model.encode(), b"tiny"))
    added = add_benchmarks(root, [results], ScoreSettings(items=True))
    for one in added.items:  # all long texts are in windows, each of which is a prompt
        run = run_of(root, evaluated[1], one.task).id
        assert one.run == (None if one.task == "tiny_roll" else run)
    rows = read_items(root).to_pylist()
    ours = {(r["task"], r["item"]): r for r in rows if r["source"] != added.source}
    theirs = {(r["task"], r["item"]): r for r in rows if r["source"] == added.source}
    assert theirs.keys() == ours.keys()
    cut = {
        (run, row["prompt_id"])
        for run in {row["run"] for row in ours.values()}
        for row in open_store(root).runs[run].prompts().to_pylist()
        if row["truncated"]
    }
    for key, row in theirs.items():
        if key[0] not in ("tiny_mc", "tiny_ll"):
            continue  # a text of several windows has a prompt for each
        same = ("run", "gold", "chosen", "correct", "metrics", "greedy", "doc_sha256", "filter")
        assert [row[name] for name in same] == [ours[key][name] for name in same]
        assert row["log_likelihoods"] == pytest.approx(ours[key]["log_likelihoods"])
        gold = eval_tasks.document(key[1])["gold"]
        choices = [gold] if key[0] == "tiny_ll" else range(4)
        expected = [
            # the tokenizer has no `!`, so nothing spells the second answer
            None if choice == 1 or (row["run"], prompt) in cut else prompt
            for choice, prompt in zip(choices, ours[key]["prompt_ids"], strict=True)
        ]
        assert row["prompt_ids"] == expected
    assert sum(one.n_joined for one in added.items) >= 6


def test_what_the_model_wrote_is_an_answer(evaluated: tuple[Path, Evaluated]) -> None:
    root, done = evaluated
    run = run_of(root, done, "tiny_gen")
    assert run.plan.continuation is not None
    prompts = run.prompts("n_given", "written_logprob", "field.n_context").to_pylist()
    items = [row for row in read_items(root).to_pylist() if row["task"] == "tiny_gen"]
    assert [row["prompt_ids"] for row in items] == [[n] for n in range(6)]
    for row, prompt in zip(items, prompts, strict=True):
        assert prompt["n_given"] == prompt["field.n_context"]
        assert row["log_likelihoods"] == pytest.approx([sum(prompt["written_logprob"])], abs=1e-4)
        assert row["n_answer"] == [len(prompt["written_logprob"])]  # it writes no stop string
        assert row["greedy"] == [True]


def test_names_of_scores_tell_models_and_tasks_apart(evaluated: tuple[Path, Evaluated]) -> None:
    root, done = evaluated
    model = run_of(root, done, "tiny_mc").plan.model
    assert scored_name(model, None) == f"tiny@{model.weights[:8]}" == done.model
    hub = replace(model, id="lab/tiny", source="hub", revision="0123456789abcdef")
    assert scored_name(hub, None) == "lab/tiny"
    assert scored_name(hub, "main") == "lab/tiny@01234567"
    assert scored_name(replace(hub, untrained_seed=3), None) == "lab/tiny untrained-3"

    def name(**changes: Any) -> str:
        settings = {"version": "Yaml", "shots": 0, "chat": False, "limit": None, "docs": ["a"]}
        return source_name("t", **{**settings, **changes})

    assert name().startswith("eval t 0-shot ")
    assert name(version=2.0, shots=5, chat=True, limit=3).startswith(
        "eval t 5-shot v2.0 chat first-3 "
    )
    assert name(docs=["a", "b"]) != name(docs=["b", "a"]) != name()
