"""`lpp-capture eval`: what it prints and keeps, how it resumes, and what it refuses."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import eval_tasks
import numpy as np
import pytest
import transformers
from click.testing import CliRunner, Result
from eval_tasks import by_lm_eval, evaluate_in_small_shards, write_task

from lpp.analyze import ItemsSettings
from lpp.analyze.cli.command import main as lpp_analyze
from lpp.analyze.evaluations.evaluated import evaluated_items
from lpp.analyze.evaluations.features import item_features
from lpp.analyze.evaluations.mistakes import confident_mistakes
from lpp.capture.cli.command import main
from lpp.sql import connect, saved_query
from lpp.store import add_scores, open_store, read_scores
from lpp.store.errors import InputError
from lpp.store.format.tables import encode_table
from lpp.store.scores.items import ITEMS_FILE, read_items, table_of_items
from lpp.store.scores.scores import score_sets, verify_scores
from lpp.store.uncertainty import standard_error

Eval = Callable[..., Result]


@pytest.fixture(scope="module")
def model(tiny_folder: Callable[[str], Path]) -> Path:
    return tiny_folder("llama")


@pytest.fixture
def evaluate(model: Path, tmp_path: Path) -> Eval:
    """`evaluate(tasks, "--limit", 2)`: the command on the tiny model."""

    def run(tasks: object, *extra: object, model: object = model) -> Result:
        words = ["eval", "--model", model, "--tasks", tasks, "--store", tmp_path / "store"]
        words += [] if "--sites" in extra else ["--sites", "final"]
        words += ["--context", 60, *extra]
        return CliRunner().invoke(main, [str(word) for word in words])

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "tasks"
    path.mkdir()
    return path


@pytest.mark.slow
def test_the_command_from_scores_to_sql(evaluate: Eval, folder: Path, tmp_path: Path) -> None:
    write_task(folder, "multiple_choice")
    done = evaluate(folder, "--group", "subject", "--fields", "subject", "--limit", 5)
    assert done.exit_code == 0, done.output
    root = tmp_path / "store"
    (run,) = open_store(root).runs
    rows = read_scores(root).to_pylist()
    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines if "store" not in line) <= 80
    for row in rows:
        metric = row["metric"].removesuffix(",none")
        (line,) = [line for line in lines if line.split()[:2] == ["tiny_mc", metric]]
        assert line.split()[2] == f"{row['value']:.5g}"
        assert (row["n"], row["run"], row["kind"]) == (5, run, "lm-eval")
    assert f"tiny_mc: run {run}" in lines
    profiled = CliRunner().invoke(lpp_analyze, ["profile", str(root)])
    assert profiled.exit_code == 0, profiled.output
    with connect(root) as connection:
        acc = connection.sql("SELECT value FROM benchmarks WHERE metric = 'acc,none'").fetchall()
        query = (
            "SELECT avg(correct::INT), avg((metrics->>'acc')::DOUBLE), count(DISTINCT item_group), "
            "count(*) FROM items"
        )
        assert connection.sql(query).fetchall() == [(acc[0][0], acc[0][0], 2, 5)]
        query = (  # ln p of each answer again, from the tokens of its prompt
            "SELECT max(abs(log_likelihoods[choice + 1] - total)) FROM items JOIN prompts "
            "USING (run, task, item) JOIN (SELECT run, prompt_id, sum(next_logprob) AS total FROM "
            "token_stats JOIN prompts USING (run, prompt_id) WHERE position >= n_context - 1 "
            "GROUP BY ALL) USING (run, prompt_id)"
        )
        assert connection.sql(query).fetchall()[0][0] < 1e-5
    assert verify_scores(root) == []


KILLED = """
import os, signal, sys, threading, time
from pathlib import Path

root, model, tasks = sys.argv[1:]

def kill_at_the_third_shard():
    while len(list(Path(root).glob("runs/*/shards/*/COMMIT.json"))) < 3:
        time.sleep(0.0002)
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=kill_at_the_third_shard, daemon=True).start()
from eval_tasks import evaluate_in_small_shards

evaluate_in_small_shards(root, model, tasks)
"""


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_and_repeats_no_prompt(
    model: Path, folder: Path, tmp_path: Path
) -> None:
    write_task(folder, "multiple_choice", items=12)
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"

    def commits() -> dict[str, bytes]:
        found = killed.glob("runs/*/shards/*/COMMIT.json")
        return {path.parent.name: path.read_bytes() for path in found}

    words = [sys.executable, "-c", KILLED, str(killed), str(model), str(folder)]
    support = str(Path(eval_tasks.__file__).parent)
    path = os.pathsep.join([support, os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        words, check=False, capture_output=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    before = commits()
    assert not list(killed.glob("benchmarks/*"))
    for root in (killed, undisturbed):
        evaluate_in_small_shards(root, model, folder)
    after = commits()
    assert 3 <= len(before) < len(after)
    assert {name: after[name] for name in before} == before  # each names its writer's attempt
    assert read_scores(killed).to_pylist() == read_scores(undisturbed).to_pylist()
    assert read_items(killed).equals(read_items(undisturbed))


@pytest.mark.slow
def test_the_same_again_runs_no_pass_and_changes_nothing(
    evaluate: Eval, folder: Path, tmp_path: Path
) -> None:
    write_task(folder, "multiple_choice")
    first = evaluate(folder)
    root = tmp_path / "store"
    names = [found.path.name for found in score_sets(root)]
    again = evaluate(folder)
    assert (first.exit_code, again.exit_code) == (0, 0), again.output
    assert [found.path.name for found in score_sets(root)] == names
    # one more site is another run, and the same scores
    assert evaluate(folder, "--sites", "embed,final").exit_code == 0
    assert len(open_store(root).runs) == 2
    # another precision gives other log-likelihoods: a score that differs is not replaced unasked
    write_task(folder, "loglikelihood_rolling")
    assert evaluate(folder / "tiny_roll.yaml").exit_code == 0
    values = read_scores(root).to_pylist()
    refused(evaluate(folder / "tiny_roll.yaml", "--dtype", "bfloat16"), "--replace")
    assert read_scores(root).to_pylist() == values
    done = evaluate(folder / "tiny_roll.yaml", "--dtype", "bfloat16", "--replace")
    assert done.exit_code == 0, done.output
    assert len(read_scores(root)) == len(values)
    assert read_scores(root).to_pylist() != values


def test_the_same_again_reads_no_weights(
    model: Path, evaluate: Eval, folder: Path, tmp_path: Path
) -> None:
    """Weights of the same size and time, which no longer load, are never read."""
    mine = tmp_path / "mine"
    shutil.copytree(model, mine)
    write_task(folder, "multiple_choice")
    write_task(folder, "generate_until")
    both = f"{folder}/tiny_mc.yaml,{folder}/tiny_gen.yaml"
    assert evaluate(both, model=mine).exit_code == 0
    scores = read_scores(tmp_path / "store").to_pylist()
    for file in mine.glob("*.safetensors"):
        found = file.stat()
        file.write_bytes(bytes(found.st_size))
        os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    again = evaluate(both, "--keep-texts", model=mine)  # a column that the runs lack
    refused(again, "text")
    again = evaluate(both, model=mine)
    assert again.exit_code == 0, again.output
    assert " ".join(again.stderr.split()).count("was complete already") == 2
    assert read_scores(tmp_path / "store").to_pylist() == scores
    # what is not there yet needs the model
    assert evaluate(both, "--limit", 2, model=mine).exit_code != 0


def test_requests_that_are_alike_are_one_prompt(
    evaluate: Eval, folder: Path, tmp_path: Path
) -> None:
    write_task(
        folder, "multiple_choice", items=2, doc_to_choice=["the fox", "a dog!", "the fox", "fox"]
    )
    assert evaluate(folder).exit_code == 0
    (run,) = open_store(tmp_path / "store").runs.values()
    assert run.plan.prompts.count == 8
    ids = [row["prompt_ids"] for row in read_items(tmp_path / "store").to_pylist()]
    assert ids == [[1, 2, 1, 3], [5, 6, 5, 7]]


def test_an_answer_beyond_the_context_is_quarantined_and_counted(
    evaluate: Eval, folder: Path, tmp_path: Path
) -> None:
    write_task(
        folder, "multiple_choice", items=3, doc_to_choice=["the fox", "every layer " * 9, "fox"]
    )
    done = evaluate(folder, "--context", 30)
    assert done.exit_code == 0, done.output
    root = tmp_path / "store"
    (run,) = open_store(root).runs.values()
    aside = run.texts_set_aside().to_pylist()
    assert [row["reason"] for row in aside] == ["answer_too_long"] * 3
    assert [row["source_row"] for row in aside] == [1, 4, 7]
    for row in read_items(root).to_pylist():
        assert row["prompt_ids"][1] is None
        assert row["log_likelihoods"][1] == float("-inf")
        assert row["chosen"] != 1
    assert {row["n"] for row in read_scores(root).to_pylist()} == {3}
    assert "3 answers" in done.stderr


def test_models_of_one_name_do_not_share_scores(
    evaluate: Eval, folder: Path, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    write_task(folder, "multiple_choice")
    for family in ("llama", "qwen2"):
        there = tmp_path / family / "final-checkpoint"
        shutil.copytree(tiny_folder(family), there)
        assert evaluate(folder, model=there).exit_code == 0
    rows = read_scores(tmp_path / "store").to_pylist()
    assert len({row["source"] for row in rows}) == 1
    assert len({row["model"] for row in rows}) == 2
    assert len({row["run"] for row in rows}) == 2
    assert len(read_items(tmp_path / "store")) == 12


def test_a_group_has_a_score_and_each_of_its_tasks_a_run(
    evaluate: Eval, folder: Path, tmp_path: Path
) -> None:
    for name in ("part_a", "part_b"):
        write_task(folder, "multiple_choice", task=name, items=4 if name == "part_a" else 2)
    (folder / "whole.yaml").write_text(
        "group: whole\ntask: [part_a, part_b]\n"
        "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )
    done = evaluate(folder / "whole.yaml")
    assert done.exit_code == 0, done.output
    rows = read_scores(tmp_path / "store").to_pylist()
    acc = {row["benchmark"]: row for row in rows if row["metric"] == "acc,none"}
    assert set(acc) == {"whole", "part_a", "part_b"}
    mean = (acc["part_a"]["value"] * 4 + acc["part_b"]["value"] * 2) / 6
    assert acc["whole"]["value"] == pytest.approx(mean)
    runs = set(open_store(tmp_path / "store").runs)
    assert {acc[part]["run"] for part in ("part_a", "part_b")} == runs
    assert (acc["whole"]["run"], acc["whole"]["n"]) == (None, 6)


def test_the_packaged_model_scores_as_with_lm_eval(
    packaged: Path, folder: Path, evaluate: Eval, tmp_path: Path
) -> None:
    """The reference is float64: in float32, lm-eval is 5e-5 from that, and ours 1.4e-5."""
    from lpp.capture.models.load import local_folder

    write_task(folder, "multiple_choice", items=5)
    done = evaluate(folder, "--dtype", "float32", model=packaged)
    assert done.exit_code == 0, done.output
    source = local_folder(str(packaged))
    hf = by_lm_eval(
        transformers.AutoModelForCausalLM.from_pretrained(source, dtype="float64").eval(),
        transformers.AutoTokenizer.from_pretrained(source),
        folder,
        max_length=59,
    )
    values = {row["metric"]: row["value"] for row in read_scores(tmp_path / "store").to_pylist()}
    assert values == {m: hf["results"]["tiny_mc"][m] for m in ("acc,none", "acc_norm,none")}
    items = read_items(tmp_path / "store").to_pylist()
    for row, sample in zip(items, hf["samples"]["tiny_mc"], strict=True):
        found = [value for ((value, _),) in sample["resps"]]
        assert row["log_likelihoods"] == pytest.approx(found, abs=5e-5, rel=0)


def refused(result: Result, *says: str) -> None:
    """One message, exit code 2, nothing like a bug."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert "This is a bug" not in result.output
    for words in says:
        assert words in result.stderr, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        ("arc_eazy", "arc_easy"),
        ("./no/such/folder", "no such file or folder"),
        ("TASKS", "no task of lm-eval in this folder"),
    ],
)
def test_unknown_tasks_are_refused(
    evaluate: Eval, folder: Path, tmp_path: Path, tasks: str, says: str
) -> None:
    refused(evaluate(folder if tasks == "TASKS" else tasks), says)
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "extra", "says"),
    [
        (("multiple_choice", {"doc_to_image": "question"}), (), "images"),
        (("multiple_choice", {"unsafe_code": True}), (), "code"),
        pytest.param(
            ("multiple_choice", {"dataset_path": "nobody/nothing", "dataset_kwargs": {}}),
            (),
            "cannot be loaded",
            marks=pytest.mark.slow,  # the hub is asked several times
        ),
        (("multiple_choice", {}), ("--limit", 0), "--limit"),
        (("multiple_choice", {}), ("--fields", "item"), "--fields item"),
        (("multiple_choice", {}), ("--fields", "choices"), "'choices'"),
        (("multiple_choice", {}), ("--fields", "subjet"), "Did you mean --fields subject"),
        (("multiple_choice", {}), ("--group", "subjet"), "Did you mean --group subject"),
        (("multiple_choice", {}), ("--chat",), "no chat template"),
        (("multiple_choice", {}), ("--context", 97), "--context 96"),
        (("multiple_choice", {}), ("--context", 2), "no request fits"),
        (("generate_until", {"generation_kwargs": {"do_sample": True}}), (), "do_sample"),
        (("generate_until", {"generation_kwargs": {"max_gen_toks": 200}}), (), "max_gen_toks"),
        (("multiple_choice", {}), ("--shots", 3), "tiny_mc"),
        (
            ("multiple_choice", {"fewshot_config": {"sampler": "first_n"}}),
            ("--shots", 3),
            "exceeds the 2 that are available",
        ),
        (("multiple_choice", {"metadata": {"lpp": {"clusters": "id"}}}), (), "cluster"),
        (("multiple_choice", {"metadata": {"lpp": {"whole": "yes"}}}), (), "whole"),
        (
            ("multiple_choice", {"metadata": {"lpp": {"whole": True}}}),
            ("--context", 12),
            "not cut",
        ),
    ],
)
def test_what_cannot_be_asked_is_one_message(
    evaluate: Eval,
    folder: Path,
    task: tuple[str, dict[str, Any]],
    extra: tuple[object, ...],
    says: str,
) -> None:
    kind, changes = task
    name = write_task(folder, kind, **changes)
    refused(evaluate(folder / f"{name}.yaml", *extra), says)
    assert not (folder.parent / "store").exists()


def test_a_task_is_named_once(evaluate: Eval, folder: Path) -> None:
    name = write_task(folder, "multiple_choice")
    refused(evaluate(f"{folder},{folder / name}.yaml"), "twice")


def test_metrics_that_are_no_number_of_an_item_are_named(
    evaluate: Eval, folder: Path, tmp_path: Path
) -> None:
    write_task(folder, "loglikelihood_rolling")
    done = evaluate(folder)
    assert done.exit_code == 0, done.output
    assert "word_perplexity" in done.stderr
    items = read_items(tmp_path / "store").to_pylist()
    assert {row["metrics"] for row in items} == {json.dumps({})}
    assert {row["correct"] for row in items} == {None}


@pytest.mark.slow
def test_an_answer_whose_states_are_not_finite_is_never_chosen(
    model: Path, folder: Path, evaluate: Eval, tmp_path: Path
) -> None:
    """The token `!` alone is broken: of the four answers, one has it."""
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    (token,) = tokenizer.encode("#")
    loaded.get_input_embeddings().weight.data[token] = float("nan")
    loaded.save_pretrained(broken)
    write_task(folder, "multiple_choice", items=3, doc_to_choice=["the fox", "a #", "fox"])
    done = evaluate(folder, model=broken)
    assert done.exit_code == 0, done.output
    (run,) = open_store(tmp_path / "store").runs.values()
    assert run.quarantined.tolist() == [2, 6, 10]
    for row in read_items(tmp_path / "store").to_pylist():
        assert row["log_likelihoods"][1] == float("-inf")
        assert row["chosen"] != 1


def test_a_task_says_what_is_right_and_which_items_belong_together(
    evaluate: Eval, folder: Path, tmp_path: Path
) -> None:
    """`acc` says another thing than `acc_norm` here; items of one subject are not independent."""
    declared = {"cluster": "subject", "correct": "acc_norm", "group": "subject"}
    write_task(
        folder, "multiple_choice", metadata={"lpp": declared}, doc_to_choice=["it", "every layer "]
    )
    done = evaluate(folder)
    assert done.exit_code == 0, done.output
    items = read_items(tmp_path / "store").to_pylist()
    metrics = [json.loads(row["metrics"]) for row in items]
    assert [row["correct"] for row in items] == [m["acc_norm"] == 1 for m in metrics]
    assert {row["item_group"] for row in items} == {"even", "odd"}
    assert [row["item_cluster"] for row in items] == [row["item_group"] for row in items]
    rows = {row["metric"]: row for row in read_scores(tmp_path / "store").to_pylist()}
    for name in ("acc", "acc_norm"):
        expected = standard_error([m[name] for m in metrics], [r["item_group"] for r in items])
        assert rows[f"{name},none"]["stderr"] == pytest.approx(expected)
    root = tmp_path / "store"
    found = evaluated_items(root, "tiny_mc")
    assert (found.settings.cluster, found.n_clusters) == ("subject", 2)
    as_earlier_releases(root)  # lm-eval's files have the documents, and the declaration
    assert read_items(root)["item_cluster"].null_count == len(items)
    early = evaluated_items(root, "tiny_mc")
    assert (early.settings.cluster, early.table.equals(found.table)) == ("subject", True)
    other = evaluated_items(root, "tiny_mc", settings=ItemsSettings(cluster="id"))
    assert (other.settings.cluster, other.n_clusters) == ("id", len(items))
    with pytest.raises(InputError, match=r"--cluster subjct: .*did you mean subject"):
        evaluated_items(root, "tiny_mc", settings=ItemsSettings(cluster="subjct"))


def as_earlier_releases(root: Path) -> None:
    """Take from the items what earlier releases did not store."""
    (held,) = score_sets(root)
    files = held.original()
    (name,) = (name for name in files if name.endswith(ITEMS_FILE))
    early = table_of_items(files[name]).drop_columns(["item_cluster", "n_answer"])
    files[name] = encode_table(early)
    add_scores(root, held.record.source, held.scores(), files, replace=True)


@pytest.mark.slow
def test_the_answer_of_a_generation_ends_before_the_stop_string(
    evaluate: Eval, folder: Path, tmp_path: Path, model: Path
) -> None:
    """Tokens after it are captured too, and are no part of what is scored."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)

    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids))

    root, settings = tmp_path / "store", {"max_gen_toks": 8, "do_sample": False}
    write_task(folder, "generate_until", items=40)
    assert evaluate(folder).exit_code == 0
    (run,) = open_store(root).runs.values()
    texts = [
        decode(row["token_ids"][row["n_given"] :]) for row in run.prompts("n_given").to_pylist()
    ]
    later = "".join(text[3:] for text in texts)
    stop = max(sorted(set(later)), key=later.count)
    write_task(folder, "generate_until", items=40, generation_kwargs={**settings, "until": [stop]})
    assert evaluate(folder, "--replace").exit_code == 0
    rows = {row["item"]: row for row in read_items(root).to_pylist()}
    lengths, answers = [], {}
    for prompt in run.prompts("n_given", "written_logprob", "field.item").to_pylist():
        row, written = rows[prompt["field.item"]], prompt["token_ids"][prompt["n_given"] :]
        (n_answer,), logprobs = row["n_answer"], prompt["written_logprob"]
        text = decode(written).split(stop)[0]
        assert decode(written[:n_answer]).startswith(text)
        assert not n_answer or not decode(written[: n_answer - 1]).startswith(text)
        assert row["log_likelihoods"] == pytest.approx([sum(logprobs[:n_answer])], abs=1e-4)
        lengths.append(n_answer - len(written))
        answers[int(prompt["field.item"])] = decode(written[:n_answer])
    assert min(lengths) < 0
    found = evaluated_items(root, "tiny_gen", settings=ItemsSettings(source=row["source"]))
    assert found.table["length"].to_list() == [rows[k]["n_answer"][0] for k in sorted(rows)]
    assert (found.written, found.uncut, found.asks_for_gold) == (True, False, False)
    features = item_features(found)
    logprobs = [row["log_likelihoods"][0] for _, row in sorted(rows.items())]
    assert features["answer_length"].tolist() == found.table["length"].to_list()
    assert features["chosen_logprob"].tolist() == logprobs
    assert CliRunner().invoke(lpp_analyze, ["profile", str(root)]).exit_code == 0
    with connect(root) as database:
        asked = database.sql(saved_query("right_and_wrong").statement).pl()
        mistakes = database.sql(saved_query("confident_mistakes").statement).pl()
    (shown,) = asked.filter(feature="answer_length").to_dicts()
    total = sum((shown[f"n_{kind}"] * (shown[f"mean_{kind}"] or 0)) for kind in ("right", "wrong"))
    assert total / 40 == pytest.approx(np.mean(found.table["length"].to_list()), rel=1e-3)
    for said in (
        *mistakes.to_dicts(),
        *confident_mistakes(found).rename({"chosen_answer": "chosen"}).to_dicts(),
    ):
        assert (said["chosen"] or "").strip() == answers[said["item"]].strip(), said
    as_earlier_releases(root)
    early = evaluated_items(root, "tiny_gen")
    assert early.uncut
    assert early.table["length"].to_list() == [
        len(prompt["written_logprob"]) for prompt in run.prompts("written_logprob").to_pylist()
    ]
    again = evaluate(folder)  # stores the lengths, and runs no pass
    assert (again.exit_code, "was complete already" in " ".join(again.stderr.split())) == (0, True)
    assert evaluated_items(root, "tiny_gen").table.equals(found.table)
