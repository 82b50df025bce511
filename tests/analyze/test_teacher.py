"""`lpp-analyze teacher`: what targets leave out is that of the plain sums over all tokens."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from on_disk import on_disk
from teachers import LENGTHS, VOCABULARY, WIDTH, reference_logprobs, write_teacher

from lpp.analyze.cli.command import main
from lpp.analyze.questions import TeacherSettings
from lpp.analyze.studies.teacher import left_out, target_costs
from lpp.store import Run

KS = (1, 5, 53)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_teacher(tmp_path_factory.mktemp("teacher") / "store")


def command(run: Run, *options: str) -> Result:
    root = str(on_disk(run.path).parent.parent)
    return CliRunner().invoke(main, ["teacher", root, *options])


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("prompts", [4, 100])
def test_each_number_is_that_of_the_plain_sums(
    run: Run, temperature: float, prompts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lpp.store.shared.logits.LOGIT_TILE_BYTES", 4 * VOCABULARY * 3)
    monkeypatch.setattr("lpp.analyze.studies.teacher.PIECE", 2 * VOCABULARY)
    settings = TeacherSettings(k=KS, samples=(2, 8), prompts=prompts, temperature=temperature)
    answer = target_costs(run, settings)
    n = sum(LENGTHS[:prompts])
    assert (answer.n_tokens, answer.n_prompts) == (n, min(prompts, len(LENGTHS)))
    assert answer.head_bytes == 4 * VOCABULARY * WIDTH
    head = run.head()
    assert head is not None
    logp = reference_logprobs(head, np.concatenate([*run.hidden("final")])[:n], temperature)
    p = -np.sort(-np.exp(logp), axis=1)
    rows = answer.rows.to_dicts()
    for row, k in zip(rows[:3], KS, strict=True):
        out = p[:, k:].sum(axis=1)
        kept = p[:, :k] / (1 - out)[:, None]
        divergence = (kept * np.log(kept / p[:, :k])).sum(axis=1).mean()
        assert (row["targets"], row["count"]) == ("topk", k)
        assert row["left_out"] == pytest.approx(out.mean(), abs=1e-6)
        assert row["left_out_p95"] == pytest.approx(np.quantile(out, 0.95), abs=1e-6)
        assert row["kl_bias"] == pytest.approx(divergence, abs=1e-6)
    variance = (np.exp(logp) * logp**2).sum(axis=1) - (np.exp(logp) * logp).sum(axis=1) ** 2
    for row, samples in zip(rows[3:5], (2, 8), strict=True):
        assert (row["targets"], row["count"], row["kl_bias"]) == ("sampled", samples, 0)
        assert row["kl_noise"] == pytest.approx((variance.mean() / samples) ** 0.5, rel=1e-4)
    exact = rows[5]
    assert (exact["targets"], exact["left_out"], exact["kl_bias"]) == ("exact", 0, 0)


def test_tokens_that_are_none_change_nothing() -> None:
    """Models give -inf to columns that are no token."""
    logp = np.log(np.array([[0.5, 0.25, 0.125, 0.125]], np.float32))
    padded = np.append(logp, np.full((1, 2), -np.inf, np.float32), axis=1)
    plain, with_padding = left_out(logp, (1, 3)), left_out(padded, (1, 3))
    assert plain[0].tolist() == [[0.5, 0.125]]
    for ours, other in zip(plain, with_padding, strict=True):
        np.testing.assert_allclose(ours, other, atol=1e-7)


def test_bytes_are_those_of_the_export_and_of_the_store(run: Run, tmp_path: Path) -> None:
    answer = target_costs(run, TeacherSettings(k=(5,), samples=()))
    path = tmp_path / "targets.parquet"
    root = str(on_disk(run.path).parent.parent)
    options = ["export", root, "--targets", "topk", "--k", "5", "-o", str(path)]
    assert CliRunner().invoke(main, options).exit_code == 0
    group = pq.ParquetFile(path).metadata.row_group(0)
    stored = sum(group.column(k).total_compressed_size for k in range(4))  # all but the loss mask
    top, exact = answer.rows["token_bytes"]
    assert top == stored / sum(LENGTHS)
    files = on_disk(run.path).glob("shards/**/hidden.zarr/final/**/*")
    assert exact == sum(file.stat().st_size for file in files if file.is_file()) / sum(LENGTHS)


def test_a_teacher_of_rounded_rows_is_not_exact(tmp_path: Path) -> None:
    run = write_teacher(tmp_path / "store", "float8_e4m3")
    exact = target_costs(run, TeacherSettings(k=(), samples=())).rows.row(0, named=True)
    assert (exact["targets"], exact["kl_bias"], exact["flags"]) == ("exact", None, ["lossy"])
    text = " ".join(command(run, "--k", "5").stdout.split())
    assert "final gives all of it (rounded to 8 bits, so nearly)" in text
    assert "lossy" in text


def test_the_command_concludes_and_gives_every_row(run: Run) -> None:
    text = command(run, "--k", "5,20", "--samples", "8")
    assert text.exit_code == 0, text.output
    assert "The 20 most likely tokens of" in text.stdout
    document: dict[str, Any] = json.loads(command(run, "--k", "5", "--format", "json").stdout)
    assert document["n_tokens"] == sum(LENGTHS)
    assert [row["targets"] for row in document["targets"]] == ["topk", *["sampled"] * 6, "exact"]
    default = command(run, "--format", "csv")
    assert default.stderr == "k above 53, the vocabulary, is left out.\n"
    assert [line.split(",")[2] for line in default.stdout.splitlines()[1:4]] == ["8", "16", "32"]
    refused = command(run, "--k", "0")
    assert (refused.exit_code, "1 or more" in refused.stderr) == (2, True)
