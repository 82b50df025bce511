"""What a model writes after each prompt, on the command line: kept, captured, compared."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
import transformers
from backend_contract import plain_forward
from click.testing import CliRunner, Result

from lpp.analyze.cli.command import main as lpp_analyze
from lpp.capture.cli.command import main as lpp_capture
from lpp.capture.corpus.selection import Selection
from lpp.capture.models.load import describe_model, load_model
from lpp.capture.models.spec import ModelSpec
from lpp.capture.plan.parts import Part
from lpp.capture.plan.request import CaptureRequest, ContinuationSpec, CorpusSpec
from lpp.capture.ray.actor import CaptureActor
from lpp.sql import connect
from lpp.store import Run, RunWriter, create_store, open_store
from lpp.store.exchange.export import export
from lpp.store.format.prompt_columns import CONTINUATION_COLUMNS
from lpp.store.runs.replay import replay, written_tokens

CONTEXT = 12
CONTINUED = 7
Capture = Callable[..., Result]


@pytest.fixture(scope="module")
def model(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2 whose settings ask for much that would change what it writes."""
    folder = tmp_path_factory.mktemp("model") / "qwen2"
    shutil.copytree(tiny_folder("qwen2"), folder)
    settings = {"do_sample": True, "top_k": 2, "repetition_penalty": 9.0, "eos_token_id": [2, 5]}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """150 texts of 3 to 40 tokens: three blocks."""
    path = tmp_path / "texts.txt"
    path.write_text("\n\n".join(f"{n} dogs " * (1 + n % 9) for n in range(150)))
    return path


@pytest.fixture
def capture(model: Path, texts: Path, tmp_path: Path) -> Capture:
    """`capture("--temperature", 1)`: continues the first prompts into the store."""

    def run(*extra: object, prompts: int = 9, tokens: object = CONTINUED) -> Result:
        options = ["run", "--model", model, "--corpus", texts, "--store", tmp_path / "store"]
        options += ["--prompts", prompts, "--min-bytes", 0, "--context", CONTEXT]
        options += [] if "--sites" in extra else ["--sites", "final"]
        options += [*(["--continue", tokens] if tokens else []), *extra]
        return CliRunner().invoke(lpp_capture, [str(option) for option in options])

    return run


def done(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


def only_run(store: Path) -> Run:
    (run,) = open_store(store).runs.values()
    assert run.verify() == []
    return run


def written(run: Run) -> list[list[int]]:
    """The tokens that the model wrote after each prompt."""
    prompts = run.prompts(*CONTINUATION_COLUMNS).to_pylist()
    return [prompt["token_ids"][prompt["n_given"] :] for prompt in prompts]


def verified(store: Path) -> Result:
    return CliRunner().invoke(lpp_analyze, ["verify", str(store)])


def test_what_is_captured_is_the_prompt_and_what_the_model_found_most_likely(
    capture: Capture, model: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    said = done(capture("--report", report))
    run = only_run(tmp_path / "store")
    info = run.plan.continuation
    assert info is not None
    assert (info.given_context, info.tokens) == (CONTEXT, CONTINUED)
    assert (info.temperature, info.seed, info.end_ids) == (None, None, (2, 5))
    assert run.plan.context == run.plan.prefixes[-1] == CONTEXT + CONTINUED

    reference = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    prompts = run.prompts(*CONTINUATION_COLUMNS).to_pylist()
    assert len({prompt["n_given"] for prompt in prompts}) > 1
    count = 0
    for prompt in prompts:
        ids, given = prompt["token_ids"], prompt["n_given"]
        logits = plain_forward(reference, ids)[1].astype(np.float64)
        assert ids[given:] == logits.argmax(axis=1)[given - 1 : -1].tolist()
        ends = [token in info.end_ids for token in ids[given:]]
        assert not any(ends[:-1])
        assert len(ends) == CONTINUED or ends[-1]
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        want = log_p[np.arange(given - 1, len(ids) - 1), ids[given:]]
        np.testing.assert_allclose(prompt["written_logprob"], want, atol=1e-4)
        count += len(ends)

    found = replay(run)
    assert found is not None
    assert (found.tokens, found.most_likely) == (count, count)
    assert 0 <= found.mean <= found.largest < 1e-4
    assert f"replay: ln p of {count} written tokens within" in said.stdout
    assert json.loads(report.read_text())["replay"]["tokens"] == count


def test_tokens_that_end_a_text(model: Path, tiny_folder: Callable[[str], Path]) -> None:
    for load in (load_model, describe_model):
        assert load(ModelSpec(id=str(model))).end_ids == (2, 5)
        assert load(ModelSpec(id=str(tiny_folder("llama")))).end_ids == (2,)
        assert load(ModelSpec(id=str(tiny_folder("gpt_neox")))).end_ids == (2,)


def test_the_columns_of_the_database(capture: Capture, tmp_path: Path) -> None:
    store = tmp_path / "store"
    done(capture())
    done(CliRunner().invoke(lpp_analyze, ["profile", str(store)]))
    table = pl.DataFrame(pl.from_arrow(written_tokens(only_run(store))))
    difference = (pl.col("written_logprob") - pl.col("replay_logprob")).abs()
    of_each = table.group_by("prompt_id", maintain_order=True).agg(
        first=pl.col("position").min(), largest=difference.max()
    )
    with connect(store) as connection:
        of_tokens = connection.sql(
            "SELECT prompt_id, position FROM token_stats WHERE written ORDER BY ALL"
        ).fetchall()
        of_prompts = connection.sql(
            "SELECT n_given, replay_difference FROM prompts ORDER BY prompt_id"
        ).fetchall()
    assert of_tokens == table.select("prompt_id", "position").rows()
    assert of_prompts == of_each.select("first", "largest").rows()


def test_a_seed_gives_the_same_tokens_in_other_batches_and_another_seed_others(
    capture: Capture, tmp_path: Path
) -> None:
    drawn = ("--temperature", 0.8, "--generation-seed", 3)
    for extra in ((), ("--batch-tokens", 40)):
        done(capture(*drawn, *extra))
    done(capture("--temperature", "0.8", "--generation-seed", 4))
    runs = list(open_store(tmp_path / "store").runs.values())
    by_seed: dict[Any, list[list[list[int]]]] = {}
    for run in runs:
        info = run.plan.continuation
        assert info is not None
        assert info.temperature == "0.8"
        by_seed.setdefault(info.seed, []).append(written(run))
    assert by_seed[3][0] == by_seed[3][1]
    assert by_seed[4][0] != by_seed[3][0]


def test_parts_write_what_is_missing_and_come_to_one_plan(capture: Capture, tmp_path: Path) -> None:
    store, shard = tmp_path / "store", ("--shard-mib", 1)
    first = done(capture("--temperature", 1, "--part", "1/2", *shard, prompts=150))
    assert "continued prompts" in first.stderr
    # nobody else was there, so all three blocks are its own
    assert len(list((store / "continuations").glob("*-[0-9]*"))) == 3
    second = done(capture("--temperature", 1, "--part", "0/2", *shard, prompts=150))
    assert "continued prompts" not in second.stderr
    assert len(written(only_run(store))) == 150
    assert verified(store).exit_code == 0


def test_workers_of_ray_come_to_one_plan(model: Path, texts: Path, tmp_path: Path) -> None:
    """What runs on each card of a cluster, in this process."""
    root = create_store(tmp_path / "store").path
    request = CaptureRequest(
        model=ModelSpec(id=str(model)),
        corpus=CorpusSpec(name=str(texts)),
        selection=Selection(prompts=70, min_bytes=0),
        context=CONTEXT,
        sites=("final",),
        continuation=ContinuationSpec(tokens=3, temperature=1),
    )
    workers = [CaptureActor(root, request, f"worker {k}", 1, Part(k, 2)) for k in range(2)]
    plans = [worker.load().plan for worker in workers]
    assert plans[0].hash == plans[1].hash
    for worker in workers:
        worker.open(plans[0].hash)
    done = workers[1].capture([0])
    assert done.written == {0}
    for worker in workers:
        worker.close()
    assert len(written(only_run(tmp_path / "store"))) == 70


def test_a_seed_is_drawn_once_said_and_used_again(capture: Capture, tmp_path: Path) -> None:
    store = tmp_path / "store"
    said = done(capture("--temperature", 1))
    run = only_run(store)
    info = run.plan.continuation
    assert info is not None
    assert info.temperature == "1"
    words = " ".join(said.stderr.split())  # a line may end inside
    assert f"at --temperature 1 --generation-seed {info.seed}" in words
    shutil.rmtree(store / "requests")
    again = done(capture("--temperature", 1))
    assert f"({run.id}) was complete already" in again.stdout
    done(capture("--temperature", 1, "--generation-seed", info.seed))
    assert only_run(store).id == run.id


def test_a_finished_capture_loads_no_model(capture: Capture, tmp_path: Path) -> None:
    for extra in ((), ("--temperature", 1)):
        done(capture(*extra))
        again = done(capture(*extra))
        assert "continued by" not in again.stderr
    assert len(open_store(tmp_path / "store").runs) == 2


@pytest.mark.slow
def test_damage_is_found_removed_and_written_again(capture: Capture, tmp_path: Path) -> None:
    store = tmp_path / "store"
    done(capture("--temperature", 1))
    (file,) = store.glob("continuations/*-00000/*/written.arrow")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    found = verified(store)
    assert found.exit_code == 1
    assert f"{file.relative_to(store)}: altered" in found.stdout
    shutil.rmtree(store / "requests")
    refused = capture("--temperature", 1)
    assert refused.exit_code == 2
    assert "lpp-capture repair" in refused.stderr
    CliRunner().invoke(lpp_capture, ["repair", str(store)])
    assert verified(store).exit_code == 0
    assert "continued prompts" in done(capture("--temperature", 1)).stderr
    only_run(store)  # the same draws, the same plan


def test_answers_are_the_loss_mask_and_a_bit_of_any_file_is_missed(
    capture: Capture, tmp_path: Path
) -> None:
    store, corpus = tmp_path / "store", tmp_path / "questions.jsonl"
    questions = [[7, 8 + k, *range(9, 9 + k)] for k in range(5)]
    corpus.write_text("".join(json.dumps({"input_ids": ids}) + "\n" for ids in questions))
    done(capture("--temperature", 1, "--corpus", corpus, prompts=5))
    run = only_run(store)
    export(run, "parquet", tmp_path / "rows")
    rows = pl.read_parquet(tmp_path / "rows" / "part-*.parquet")
    for prompt, (ids, answer) in enumerate(zip(questions, written(run), strict=True)):
        of_prompt = rows.filter(prompt_id=prompt)
        assert of_prompt["token_id"].to_list() == [*ids, *answer]
        assert of_prompt["loss_mask"].to_list() == [False] * len(ids) + [True] * len(answer)
    files = [file for file in store.rglob("*") if file.is_file() and "requests" not in file.parts]
    assert len(files) > 15
    for file in files:
        whole = file.read_bytes()
        middle = len(whole) // 2
        file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        found = verified(store)
        assert found.exit_code != 0, file
        folder = file.relative_to(store).parts[:2]
        assert any(name in found.output.replace("\n", "") for name in (file.name, *folder)), file
        file.write_bytes(whole)
    assert verified(store).exit_code == 0


def test_a_block_in_the_place_of_another_is_found(capture: Capture, tmp_path: Path) -> None:
    store = tmp_path / "store"
    done(capture())
    (block,) = (store / "continuations").iterdir()
    block.rename(block.with_name(block.name.replace("00000", "00064")))
    assert "is not what its record says" in verified(store).stdout
    shutil.copytree(block.with_name(block.name.replace("00000", "00064")), block)
    assert verified(store).stdout.count("is not what its record says") == 1


def test_a_damaged_shard_is_computed_again(capture: Capture, model: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    done(capture())
    file = next(store.glob("runs/*/shards/00000/*/tokens.arrow"))
    file.write_bytes(file.read_bytes()[:-9])
    fixed = CliRunner().invoke(lpp_capture, ["repair", str(store), "--model", str(model)])
    assert fixed.exit_code == 0, fixed.output
    only_run(store)


def test_statistics_that_nobody_asked_for_compare_nothing(capture: Capture, tmp_path: Path) -> None:
    done(capture("--logit-positions", "schedule"))
    run = only_run(tmp_path / "store")
    table = written_tokens(run)
    assert 0 < table["replay_logprob"].null_count < table.num_rows
    found = replay(run)
    assert found is not None
    assert found.tokens == table.num_rows - table["replay_logprob"].null_count


@pytest.mark.slow
def test_ranks_of_what_the_model_wrote(capture: Capture, texts: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"

    def profile(*extra: str) -> Result:
        arguments = ["profile", str(store), *extra]
        return CliRunner().invoke(lpp_analyze, arguments)

    done(capture())
    uneven = profile("--skip-first", "given")
    assert uneven.exit_code == 2
    assert f"has texts of 4 to {CONTEXT} tokens" in uneven.stderr
    long_texts = [text for text in texts.read_text().split("\n\n") if len(text) > 40]
    texts.write_text("\n\n".join(long_texts))
    shutil.rmtree(store)
    done(capture())
    assert profile("--skip-first", "0,given").exit_code == 0
    with connect(store) as connection:
        found = connection.sql("SELECT DISTINCT first_position FROM site_profiles ORDER BY ALL")
        assert found.fetchall() == [(0,), (CONTEXT,)]
    run = only_run(store)
    done(capture(tokens=None))
    plain = profile("--skip-first", "given")
    assert plain.exit_code == 2
    assert "wrote nothing" in plain.stderr
    assert profile("--skip-first", "given", run.id).exit_code == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--continue", 0), "--continue"),
        (("--continue", 85), "--context 12 and --continue 85 are together beyond"),
        (("--temperature", "nan"), "nan is not a finite number"),
        (("--temperature", -1), "--temperature -1"),
        (("--temperature", "inf"), "inf is not a finite number"),
        (("--temperature", 0.001), "0.01"),
        (("--generation-seed", 1), "without --temperature nothing is drawn"),
        (("--temperature", 1, "--generation-seed", -1), "--generation-seed"),
        (("--temperature", 1, "--generation-seed", 1 << 53), "--generation-seed"),
        (("--sites", "block.9"), "no site 'block.9'"),
    ],
)
def test_what_cannot_be_written_is_refused(
    capture: Capture, tmp_path: Path, options: tuple[object, ...], says: str
) -> None:
    refused = capture(*options)
    assert refused.exit_code == 2, refused.output
    assert says in refused.stderr
    assert not list(tmp_path.glob("store/continuations/*"))


def changed(prompts: pa.Table, name: str, values: list[Any]) -> pa.Table:
    place = prompts.schema.get_field_index(name)
    column = pa.array(values, prompts.schema.field(name).type)
    return prompts.set_column(place, name, column)


def test_prompts_that_do_not_fit_the_continuation_are_no_run(
    capture: Capture, tmp_path: Path
) -> None:
    done(capture())
    run = only_run(tmp_path / "store")
    prompts = run.prompts(*CONTINUATION_COLUMNS)
    given, logprobs = (prompts[name].to_pylist() for name in CONTINUATION_COLUMNS)
    lengths = prompts["n_tokens"].to_pylist()
    for wrong, says in (
        (prompts.drop_columns(["n_given"]), "n_given and written_logprob should be"),
        (changed(prompts, "n_given", [None, *given[1:]]), "should not be null"),
        (changed(prompts, "n_given", [0, *given[1:]]), "n_given should be 1 to 12"),
        (changed(prompts, "n_given", lengths), "tokens should follow those given"),
        (changed(prompts, "written_logprob", [[], *logprobs[1:]]), "for each token written"),
    ):
        with pytest.raises(ValueError, match=says):
            RunWriter(tmp_path / "other", run.plan, wrong)
