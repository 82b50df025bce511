"""Bad prompts are set aside with the reason, and everything after capture leaves them out."""

import json
import math
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import polars.testing
import pytest
import torch
from click.testing import CliRunner, Result
from on_disk import on_disk
from stored import object_path

import lpp.sql
from lpp.analyze import scan_entropy, scan_spectra, scan_tokens
from lpp.analyze.cli.command import main as analyze
from lpp.capture.cli.command import main
from lpp.store import Run, open_store

WORDS = ["dog", "fox", "lazy", "brown"]


def run_command(store: Path, model: Path, corpus: Path, *more: str) -> Result:
    words = ["run", f"--model={model}", f"--corpus={corpus}", f"--store={store}", "--min-bytes=0"]
    return CliRunner().invoke(main, [*words, "--context=40", "--batch-tokens=100", *more])


def only(store: Path) -> Run:
    (run,) = open_store(store).runs.values()
    return run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight texts; the third and the sixth hold a Q, which nothing else does."""
    texts = [f"the {WORDS[n % 4]} and the {WORDS[n // 4]} " * 2 for n in range(8)]
    texts[2] += "Q then some"
    texts[5] = "Q" + texts[5]
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n\n".join(texts))
    return path


@pytest.fixture(scope="module")
def ill(
    tiny_folder: Callable[[str], Path],
    tiny_tokenizer: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, str], Path]:
    """`ill("embed", "float32")`: a model that is not finite where it reads a Q, from a site on."""
    from safetensors.torch import load_file, save_file

    def make(where: str, dtype: str) -> Path:
        folder = tmp_path_factory.mktemp("ill") / f"{where}-{dtype}"
        shutil.copytree(tiny_folder("llama"), folder)
        weights = load_file(folder / "model.safetensors")
        (q,) = tiny_tokenizer("Q")["input_ids"]
        if where == "embed":
            weights["model.embed_tokens.weight"][q, 3] = math.inf
        else:  # a state that only this token has overflows in the second block
            weights["model.embed_tokens.weight"][:, 5] = 0
            weights["model.embed_tokens.weight"][q, 5] = 1e4
            for layer in (0, 1):
                weights[f"model.layers.{layer}.self_attn.o_proj.weight"][5] = 0
            weights["model.layers.0.mlp.down_proj.weight"][5] = 0
            for name in ("gate_proj", "up_proj"):
                weights[f"model.layers.1.mlp.{name}.weight"][0] = 0
                weights[f"model.layers.1.mlp.{name}.weight"][0, 5] = 1e20
        weights = {k: v.to(getattr(torch, dtype)) for k, v in weights.items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"dtype": dtype}))
        return folder

    return make


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_prompts_that_are_not_finite_are_set_aside(
    ill: Callable[[str, str], Path], corpus: Path, tmp_path: Path, dtype: str
) -> None:
    done = run_command(tmp_path / "s", ill("embed", dtype), corpus, "--prompts=8")
    assert done.exit_code == 0, done.output
    run = only(tmp_path / "s")
    rows = run.quarantine.to_pylist()
    assert [(row["prompt_id"], row["reason"], row["site"]) for row in rows] == [
        (2, "not_finite", "embed"),
        (5, "not_finite", "embed"),
    ]
    ids = run.prompts()["token_ids"].to_pylist()
    (q,) = {*ids[2]} & {*ids[5]} - {i for n in (0, 1, 3, 4, 6, 7) for i in ids[n]}
    assert [row["position"] for row in rows] == [ids[2].index(q), ids[5].index(q)]
    assert run.verify() == []
    (shard,) = run.shards
    assert (shard.record.format, shard.record.quarantine) == (3, 2)
    tokens = run.tokens().to_table()
    bad = np.isin(tokens["prompt_id"].to_numpy(), [2, 5])
    assert tokens["entropy"].is_null().to_pylist() == bad.tolist()
    for site in run.sites:
        block = list(run.blocks(site))
        assert not {2, 5} & {int(i) for b in block for i in b.prompt_id}
        assert all(np.isfinite(b.values).all() for b in block)
        assert sum(len(b.values) for b in block) == int((~bad).sum())
    said = "2 of 8 prompts are set aside:\n  2 hold NaN or infinities, which begin at embed\n"
    assert done.stdout.startswith(said)
    status = CliRunner().invoke(main, ["status", str(tmp_path / "s")])
    assert "2 hold NaN or infinities, which begin at embed" in status.stdout


def test_the_others_are_what_they_are_without_them(
    ill: Callable[[str, str], Path], corpus: Path, tmp_path: Path
) -> None:
    texts = corpus.read_text().split("\n\n")
    good = tmp_path / "good.txt"
    good.write_text("\n\n".join(text for n, text in enumerate(texts) if n not in (2, 5)))
    model = ill("embed", "float32")
    assert run_command(tmp_path / "a", model, corpus, "--prompts=8").exit_code == 0
    assert run_command(tmp_path / "b", model, good, "--prompts=6").exit_code == 0
    with_them, without = only(tmp_path / "a"), only(tmp_path / "b")
    assert without.shards[0].record.quarantine == 0
    for site in with_them.sites:
        got = np.concatenate(list(with_them.hidden(site)))
        np.testing.assert_allclose(got, np.concatenate(list(without.hidden(site))), atol=1e-5)


def test_it_begins_at_the_first_site_in_depth(
    ill: Callable[[str, str], Path], corpus: Path, tmp_path: Path
) -> None:
    done = run_command(tmp_path / "s", ill("block", "float32"), corpus, "--prompts=8")
    assert done.exit_code == 0, done.output
    run = only(tmp_path / "s")
    assert run.quarantine["prompt_id"].to_pylist() == [2, 5]
    assert run.quarantine["site"].to_pylist() == ["block.2", "block.2"]
    assert run.set_aside().first_site == "block.2"


@pytest.mark.slow
def test_a_run_without_a_finite_prompt_is_committed_and_says_so(
    ill: Callable[[str, str], Path], corpus: Path, tmp_path: Path
) -> None:
    texts = corpus.read_text().split("\n\n")
    bad = tmp_path / "bad.txt"
    bad.write_text("\n\n".join(f"the Q {text}" for text in texts))
    report = tmp_path / "report.json"
    model = ill("block", "float32")
    for _ in range(2):  # captured, then found complete
        done = run_command(tmp_path / "s", model, bad, "--prompts=8", f"--report={report}")
        assert done.exit_code == 1, done.output
        assert "8 hold NaN or infinities, which begin at block.2" in done.stdout
        assert "another --dtype" in done.stdout
        assert json.loads(report.read_text())["status"] == "failed"
    run = only(tmp_path / "s")
    assert (run.missing_shards, run.verify()) == ((), [])
    assert list(run.blocks("final")) == []
    # beside a run that has numbers its own are null, and alone there is nothing to analyse
    assert run_command(tmp_path / "s", model, corpus, "--prompts=8").exit_code == 0
    done = CliRunner().invoke(analyze, ["profile", str(tmp_path / "s")])
    assert done.exit_code == 0, done.output
    sql = "SELECT run, participation_ratio IS NULL, entropy_floor IS NULL FROM profiles"
    with closing(lpp.sql.connect(tmp_path / "s")) as connection:
        found = {row[0]: row[1:] for row in connection.sql(sql).fetchall()}
    assert found.pop(run.id) == (True, True)
    assert list(found.values()) == [(False, False)]


def test_a_model_that_is_nowhere_finite_is_refused_before_it_runs(
    tiny_folder: Callable[[str], Path], corpus: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "nan"
    shutil.copytree(tiny_folder("llama"), folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"][:] = math.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    done = run_command(tmp_path / "s", folder, corpus, "--prompts=8")
    assert done.exit_code == 2
    assert "gives no finite logit in float32" in done.stderr
    assert "another --dtype" in done.stderr


def test_texts_that_are_no_text_are_set_aside_and_the_next_are_taken(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    lines = [b'{"text": "the dog"}', b'{"text": "caf\xe9"}', b'{"text": "   "}', b""]
    lines += [b'{"text": "\\ud83d and the fox"}', b'{"text": "the fox"}', b'{"text": "a dog"}']
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\n".join(lines))
    done = run_command(tmp_path / "s", tiny_folder("llama"), path, "--prompts=2")
    assert done.exit_code == 0, done.output
    run = only(tmp_path / "s")
    assert run.prompts()["source_row"].to_pylist() == [0, 5]
    rows = run.texts_set_aside().to_pylist()
    assert [(row["source_row"], row["reason"]) for row in rows] == [
        (1, "not_utf8"),
        (2, "empty"),
        (3, "empty"),
        (4, "no_text"),
    ]
    assert "byte 0xe9 at offset 33, line 2" in rows[0]["detail"]
    assert "texts of the corpus that were set aside: 2 empty, 1 no_text, 1 not_utf8" in done.stdout
    assert run.verify() == []
    assert run.commit.format == 3
    path = object_path(run.path, "quarantine.arrow")
    path.unlink()
    assert [p.where for p in run.verify()] == [path.relative_to(on_disk(run.path)).as_posix()]


@pytest.mark.slow
def test_every_column_of_a_store_with_bad_prompts(
    ill: Callable[[str, str], Path], corpus: Path, tmp_path: Path
) -> None:
    """Analysis of 8 prompts, two of them bad, is analysis of the six."""
    model = ill("embed", "float32")
    texts = corpus.read_text().split("\n\n")
    good = tmp_path / "good.txt"
    good.write_text("\n\n".join(text for n, text in enumerate(texts) if n not in (2, 5)))
    assert run_command(tmp_path / "a", model, corpus, "--prompts=8").exit_code == 0
    assert run_command(tmp_path / "b", model, good, "--prompts=6").exit_code == 0
    for scan in (scan_spectra, scan_entropy):
        one, other = (
            scan(tmp_path / name).drop("run", "n_prompts", "n_quarantined").collect()
            for name in "ab"
        )
        polars.testing.assert_frame_equal(one, other, abs_tol=1e-4)
    assert scan_tokens(tmp_path / "a").collect().null_count()["entropy"].sum() == 0
    done = CliRunner().invoke(
        analyze, ["profile", str(tmp_path / "a"), "--metrics", "stable_rank,renyi2_entropy,ece"]
    )
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "2 of 8 prompts are set aside (NaN or infinities from embed on)" in said
    for words in ("layers", "cka"):
        done = CliRunner().invoke(analyze, [words, str(tmp_path / "a"), "--prompts", "8"])
        assert done.exit_code == 0, done.output
    connection = lpp.sql.connect(tmp_path / "a")

    def column(sql: str) -> set[Any]:
        return {row[0] for row in connection.sql(sql).fetchall()}

    tables = ("runs", "spectra", "entropy", "profiles", "site_profiles", "metrics")
    for table in (*tables, "layers", "hourglass", "cka"):
        assert column(f"SELECT n_quarantined FROM {table}") == {2}, table
    assert column("SELECT not_finite_from FROM runs") == {"embed"}
    assert column("SELECT list_contains(flags, 'quarantined') FROM profiles") == {True}
    for table in ("metrics", "layers", "cka"):
        assert column(f"SELECT list_contains(flags, 'quarantined') FROM {table}") == {True}, table
    assert column("SELECT prompt_id FROM token_stats") == {0, 1, 3, 4, 6, 7}
    assert column("SELECT count(*) FROM token_stats WHERE entropy IS NULL") == {0}
