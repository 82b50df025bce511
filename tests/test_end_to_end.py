"""The main job on a real model, against the published procedure in plain code.

The reference runs the model again for each prefix of each prompt, stacks the states and takes a
float64 SVD: slow, and without anything of ours but the token ids.
"""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
import torch
from on_disk import on_disk
from stored import only_run, stored_objects

from lpp.analyze import scan_entropy, scan_spectra
from lpp.store import Run

PROMPTS, CONTEXT = 6, 50
FLOAT32 = ("--prompts", PROMPTS, "--context", CONTEXT, "--dtype", "float32")

Capture = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def packaged_float32() -> Any:
    """The packaged model by transformers' own means."""
    import transformers

    from lpp.capture.models.gguf import converted_folder, packaged_model

    def refuse(file: Path, folder: Path) -> None:
        raise AssertionError("the capture has converted it already")

    folder = converted_folder(packaged_model(), refuse)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def run(capture_packaged: Capture, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All sites in float32."""
    root = tmp_path_factory.mktemp("float32") / "store"
    done = capture_packaged(root, *FLOAT32)
    assert done.returncode == 0, done.stderr
    return only_run(root)


def root_of(run: Run) -> Path:
    """The store a run lies in."""
    return on_disk(run.path.parent.parent)


@torch.inference_mode()
def one_prefix(model: Any, ids: list[int]) -> tuple[float, dict[str, npt.NDArray[np.float32]]]:
    """Entropy in nats at the last token, and every state, of one fresh forward pass."""
    output = model(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    log_p = output.logits[0, -1].double().log_softmax(-1)
    states = [state[0].numpy() for state in output.hidden_states]
    names = ["embed", *(f"block.{k}" for k in range(1, len(states) - 1)), "final"]
    return float(-(log_p.exp() * log_p).sum()), dict(zip(names, states, strict=True))


def svd_ranks(rows: npt.NDArray[np.float32]) -> tuple[float, float]:
    """(PR, ER) of (N, d) rows by a float64 SVD."""
    centred = rows.astype(np.float64) - rows.astype(np.float64).mean(0)
    values = np.linalg.svd(centred, compute_uv=False) ** 2
    share = values[values > 0] / values.sum()
    return float(1 / (share**2).sum()), float(np.exp(-(share * np.log(share)).sum()))


def test_every_prefix_equals_a_pass_of_its_own(run: Run, packaged_float32: Any) -> None:
    prompts = run.prompts()["token_ids"].to_pylist()
    root = root_of(run)
    entropy = dict(scan_entropy(root).select("prefix", "entropy").collect().iter_rows())
    ranks = scan_spectra(root).filter(pl.col("site").is_in(["block.7", "final"])).collect()
    for prefix in (5, 20, 50):
        passes = [one_prefix(packaged_float32, ids[:prefix]) for ids in prompts]
        assert entropy[prefix] == pytest.approx(np.mean([h for h, _ in passes]), abs=1e-5)
        for site in ("block.7", "final"):
            pr, er = svd_ranks(np.concatenate([states[site] for _, states in passes]))
            (row,) = ranks.filter(prefix=prefix, site=site).iter_rows(named=True)
            # two forward passes in float32 differ by their own rounding
            assert row["participation_ratio"] == pytest.approx(pr, rel=1e-4)
            assert row["effective_rank"] == pytest.approx(er, rel=1e-4)


def test_ranks_equal_an_svd_of_the_stored_rows(run: Run) -> None:
    ranks = scan_spectra(root_of(run)).collect()
    for site in ("embed", "block.1", "block.15", "block.30", "final"):
        blocks = list(run.blocks(site))
        rows = np.concatenate([block.values for block in blocks])
        position = np.concatenate([block.position for block in blocks])
        for prefix in run.plan.prefixes:
            pr, er = svd_ranks(rows[position < prefix])
            (row,) = ranks.filter(prefix=prefix, site=site).iter_rows(named=True)
            assert row["participation_ratio"] == pytest.approx(pr, rel=1e-6)
            assert row["effective_rank"] == pytest.approx(er, rel=1e-6)
            assert row["n_tokens"] == PROMPTS * prefix


def test_a_shorter_capture_is_contained_in_a_longer_one(
    run: Run, capture_packaged: Capture, tmp_path: Path
) -> None:
    short = tmp_path / "short"
    done = capture_packaged(
        short, "--prompts", 4, "--context", 20, "--dtype", "float32", "--sites", "block.12,final"
    )
    assert done.returncode == 0, done.stderr
    keys = ["site", "prefix"]
    asked = scan_spectra(root_of(run), contexts=[20], prompts=[4]).sort(keys)
    values = ["n_tokens", "participation_ratio", "effective_rank", "top_share"]
    long = asked.filter(pl.col("site").is_in(["block.12", "final"])).select(keys + values).collect()
    alone = scan_spectra(short).sort(keys).select(keys + values).collect()
    assert long.height == 20
    for column in values:
        np.testing.assert_allclose(long[column], alone[column], rtol=1e-4, err_msg=column)
    one, other = (
        scan.sort("prefix").select("entropy").collect()["entropy"].to_numpy()
        for scan in (scan_entropy(root_of(run), contexts=[20], prompts=[4]), scan_entropy(short))
    )
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_schedule_positions_give_the_same_entropy(
    run: Run, capture_packaged: Capture, tmp_path: Path
) -> None:
    done = capture_packaged(
        tmp_path / "s", *FLOAT32, "--sites", "final", "--logit-positions", "schedule"
    )
    assert done.returncode == 0, done.stderr
    sparse, full = (
        scan_entropy(root).sort("prefix").collect() for root in (tmp_path / "s", root_of(run))
    )
    np.testing.assert_allclose(sparse["entropy"], full["entropy"], atol=1e-5)
    tokens = only_run(tmp_path / "s").tokens().to_table()
    assert tokens["entropy"].null_count == tokens.num_rows - 10 * PROMPTS


def test_bfloat16_agrees_within_its_rounding(
    run: Run, capture_packaged: Capture, tmp_path: Path
) -> None:
    done = capture_packaged(
        tmp_path / "b", "--prompts", PROMPTS, "--context", CONTEXT, "--dtype", "bfloat16"
    )
    assert done.returncode == 0, done.stderr
    narrow, wide = (
        scan_entropy(root).sort("prefix").collect()["entropy_norm"].to_numpy()
        for root in (tmp_path / "b", root_of(run))
    )
    np.testing.assert_allclose(narrow, wide, atol=0.02)  # 2^-8 of logits about 20 wide, over ln V
    for site in ("embed", "block.10", "final"):
        ours, theirs = (
            np.concatenate(list(r.hidden(site))) for r in (only_run(tmp_path / "b"), run)
        )
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        assert np.median((ours * theirs).sum(1) / norms) > 0.999, site


def test_the_untrained_twin_is_uncertain_and_ranks_otherwise(documented_store: Path) -> None:
    frame = scan_entropy(documented_store).group_by("run").agg(pl.col("entropy_norm").min())
    floors = dict(frame.collect().iter_rows())
    (twin,) = [run for run in floors if "untrained" in run]
    (rounded,) = [run for run in floors if "rounded-to-4-bits" in run]
    (trained,) = set(floors) - {twin, rounded}
    assert floors[twin] > 0.95
    assert floors[trained] < floors[rounded] < 0.5
    ranks = scan_spectra(documented_store).filter(site="final").group_by("run")
    dims = dict(ranks.agg(pl.col("effective_rank").max()).collect().iter_rows())
    assert abs(dims[twin] / dims[trained] - 1) > 0.2


def test_a_killed_capture_resumes_to_the_same_bytes(
    capture_packaged: Capture, start_packaged: Start, tmp_path: Path
) -> None:
    options = ("--prompts", 16, "--context", 64, "--sites", "embed,final", "--shard-mib", 1)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert capture_packaged(whole, *options).returncode == 0
    process = start_packaged(killed, *options)
    wait_for_shards(process, killed, 1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = capture_packaged(killed, *options)
    assert done.returncode == 0, done.stderr
    assert stored_objects(killed) == stored_objects(whole)


def test_ctrl_c_keeps_what_is_committed_and_says_how_to_go_on(
    start_packaged: Start, tmp_path: Path
) -> None:
    options = ("--prompts", 150, "--context", 64, "--sites", "embed,final", "--shard-mib", 1)
    process = start_packaged(tmp_path / "s", *options)
    wait_for_shards(process, tmp_path / "s", 1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2, stderr
    assert "Traceback" not in stderr
    run = only_run(tmp_path / "s")
    assert run.shards
    committed = [p for p in run.verify() if "not committed" not in p.what]
    assert committed == []


def wait_for_shards(process: "subprocess.Popen[str]", root: Path, count: int) -> None:
    """Until that many shards are committed."""
    until = time.monotonic() + 120
    while len(list(root.glob("runs/*/shards/*/COMMIT.json"))) < count:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.01)
