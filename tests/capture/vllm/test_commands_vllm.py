"""`lpp-capture run --backend vllm` as a user runs it, against the torch backend."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from on_disk import on_disk

from lpp.capture.cli.command import main
from lpp.store import Run, open_store
from lpp.store.format.tables import STATISTICS

PROMPTS = 8


Capture = Callable[..., Run]
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def capture(run_command: Command) -> Capture:
    """`capture(root, model, "vllm", *options)`: the run that the command adds to a store."""

    def run(root: Path, model: Path, backend: str, *extra: object) -> Run:
        before = set(open_store(root).runs) if root.is_dir() else set()
        done = run_command(
            *("lpp-capture", "run", "--model", model, "--corpus", "pydoc", "--store", root),
            *("--backend", backend, *extra),
        )
        assert done.returncode == 0, done.stderr
        (name,) = set(open_store(root).runs) - before
        return open_store(root).runs[name]

    return run


@pytest.fixture(scope="module")
def runs(
    capture: Capture, packaged: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Run]:
    """The packaged model by each backend in each dtype, on the demo's passages."""
    root = tmp_path_factory.mktemp("both") / "store"
    sites = "embed,block.1,block.15,block.30,final"
    return {
        (backend, dtype): capture(
            root, packaged, backend, "--dtype", dtype, "--prompts", PROMPTS, "--sites", sites
        )
        for dtype in ("float32", "bfloat16")
        for backend in ("torch", "vllm")
    }


def states(run: Run, site: str) -> np.ndarray[Any, Any]:
    return np.concatenate(list(run.hidden(site)))


def statistics(run: Run) -> dict[str, np.ndarray[Any, Any]]:
    table = run.tokens().to_table()
    return {
        name: table[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in STATISTICS
    }


def test_float32_agrees_to_rounding(runs: dict[tuple[str, str], Run]) -> None:
    ours, theirs = runs["vllm", "float32"], runs["torch", "float32"]
    assert ours.tokens().to_table()["token_id"] == theirs.tokens().to_table()["token_id"]
    for site in theirs.sites:
        want = states(theirs, site)
        assert np.abs(states(ours, site) - want).max() <= 1e-3 * np.abs(want).max(), site
    mine, other = statistics(ours), statistics(theirs)
    for name in ("entropy", "log_z", "max_logprob", "next_logprob"):
        # log_z and the logits have the size of tens, the entropy that of nats
        bound = 1e-4 if name == "entropy" else 1e-3
        assert np.nanmax(np.abs(mine[name] - other[name])) <= bound, name
    assert np.mean(mine["top1_id"] == other["top1_id"]) > 0.999


def test_bfloat16_agrees_as_bfloat16_does(runs: dict[tuple[str, str], Run]) -> None:
    ours, theirs = runs["vllm", "bfloat16"], runs["torch", "bfloat16"]
    for site in theirs.sites:
        a, b = states(ours, site), states(theirs, site)
        a, b = a - b.mean(0), b - b.mean(0)  # without the mean that all rows share
        assert (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()) > 0.999, site
    mine, other = statistics(ours), statistics(theirs)
    exact = statistics(runs["torch", "float32"])
    for name in ("entropy", "log_z", "max_logprob", "next_logprob"):
        a, b = np.nanmedian(mine[name]), np.nanmedian(other[name])
        assert abs(a - b) <= 2**-7 * abs(b), name
        # as far from float32 as the same weights in bfloat16 are without vLLM, and no further
        errors = [np.nanmedian(np.abs(one[name] - exact[name])) for one in (mine, other)]
        assert errors[0] <= 1.25 * errors[1], (name, errors)


def test_the_two_runs_say_the_same_of_the_model(runs: dict[tuple[str, str], Run]) -> None:
    ours, theirs = runs["vllm", "float32"].plan, runs["torch", "float32"].plan
    assert (ours.model, ours.tokenizer) == (theirs.model, theirs.tokenizer)
    assert (ours.sites, ours.prompts, ours.corpus) == (theirs.sites, theirs.prompts, theirs.corpus)
    assert (ours.compute.backend, theirs.compute.backend) == ("vllm", "torch")
    assert ours.compute.attention == "CPU_ATTN"
    assert "vllm" in ours.compute.versions


def test_joined_takes_states_from_torch_and_logits_from_vllm(
    capture: Capture, runs: dict[tuple[str, str], Run], packaged: Path, tmp_path: Path
) -> None:
    joined = capture(
        *(tmp_path / "store", packaged, "vllm+torch", "--dtype", "float32"),
        *("--prompts", PROMPTS, "--sites", "final,block.15"),
    )
    torch_, vllm = runs["torch", "float32"], runs["vllm", "float32"]
    np.testing.assert_array_equal(states(joined, "block.15"), states(torch_, "block.15"))
    # vLLM's tiles and steps are the same, so its statistics are the same to the last bit
    for name, values in statistics(joined).items():
        np.testing.assert_array_equal(values, statistics(vllm)[name], err_msg=name)


def test_schedule_positions_and_the_untrained_twin(
    capture: Capture, packaged: Path, tmp_path: Path
) -> None:
    options = ("--dtype", "float32", "--prompts", 4, "--sites", "final", "--untrained-seed", 3)
    root = tmp_path / "store"
    ours, theirs = (
        capture(root, packaged, backend, *options, "--logit-positions", "schedule")
        for backend in ("vllm", "torch")
    )
    assert ours.plan.model == theirs.plan.model
    words = ours.vocabulary()  # written beside the first run, which is vLLM's
    assert words is not None
    assert words.num_rows == ours.plan.tokenizer.size
    want = states(theirs, "final")
    assert np.abs(states(ours, "final") - want).max() <= 1e-3 * np.abs(want).max()
    mine, other = statistics(ours)["entropy"], statistics(theirs)["entropy"]
    assert np.isnan(mine).sum() == np.isnan(other).sum() > 0
    np.testing.assert_allclose(mine, other, atol=1e-4)


def test_a_killed_capture_resumes_and_a_bad_shard_is_repaired(
    run_command: Command, packaged: Path, tmp_path: Path
) -> None:
    words = [
        *(str(Path(sys.executable).with_name("lpp-capture")), "run", "--model", str(packaged)),
        *("--corpus", "pydoc", "--store", str(tmp_path / "store"), "--backend", "vllm"),
        *("--prompts", "24", "--sites", "final", "--shard-mib", "1"),
    ]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if re.search(r"shard \d+ of", line):  # not every shard has a line
                process.send_signal(signal.SIGKILL)
                break
    (run,) = open_store(tmp_path / "store").runs.values()
    kept = {shard.index: shard.digest for shard in run.shards}
    assert 0 < len(kept) < run.plan.n_shards
    done = run_command("lpp-capture", *words[1:])
    assert done.returncode == 0, done.stderr
    (run,) = open_store(tmp_path / "store").runs.values()
    assert not run.missing_shards
    assert {k: shard.digest for k, shard in enumerate(run.shards) if k in kept} == kept
    assert run.verify() == []
    before = {shard.index: shard.record.objects for shard in run.shards}
    bad = next(path for path in on_disk(run.shards[1].objects_dir).rglob("c/*/*") if path.is_file())
    data = bytearray(bad.read_bytes())
    data[len(data) // 2] ^= 1
    bad.write_bytes(data)
    done = run_command("lpp-capture", "repair", tmp_path / "store", "--model", packaged)
    assert done.returncode == 0, done.stderr
    assert "computed again, byte for byte what was committed" in " ".join(done.stdout.split())
    (run,) = open_store(tmp_path / "store").runs.values()
    assert run.verify() == []
    assert {shard.index: shard.record.objects for shard in run.shards} == before


def test_ten_thousand_short_prompts_keep_memory_flat_and_lose_no_row(
    wide_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    corpus = tmp_path / "short.jsonl"
    words = ["the", "dog", "fox", "quick", "brown", "lazy", "over", "jumps", "mind", "all"]
    with corpus.open("w") as file:
        for n in range(10_000):
            text = " ".join(words[(n * k) % 10] for k in range(1, 2 + n % 4))
            file.write(json.dumps({"text": f"{text} {n}"}) + "\n")
    script = tmp_path / "memory.py"
    script.write_text(
        "import os, sys, json\n"
        "from pathlib import Path\n"
        "from lpp.capture.engine.capture import capture_run\n"
        "from lpp.capture.engine.prepare import prepare\n"
        "from lpp.capture.plan.request import CaptureRequest, CorpusSpec\n"
        "from lpp.capture.models.spec import ModelSpec\n"
        "from lpp.capture.corpus.selection import Selection\n"
        "from lpp.store import RunWriter, create_store\n"
        "model, corpus, root = sys.argv[1:]\n"
        "class Watch:\n"
        "    done, seen = 0, []\n"
        "    def advance(self, amount=1):\n"
        "        self.done += amount\n"
        "        pages = int(Path('/proc/self/statm').read_text().split()[1])\n"
        "        self.seen.append((self.done, pages * os.sysconf('SC_PAGE_SIZE') / 2**20))\n"
        "    def note(self, text): pass\n"
        "ready = prepare(CaptureRequest(model=ModelSpec(id=model), backend='vllm',\n"
        "    corpus=CorpusSpec(name=corpus), selection=Selection(prompts=10_000, min_bytes=0),\n"
        "    context=32, shard_bytes=4 << 20))\n"
        "writer = RunWriter(create_store(Path(root)).path, ready.plan, ready.prompts)\n"
        "watch = Watch()\n"
        "capture_run(ready.plan, ready.prompts, writer, ready.backend, watch)\n"
        "third = next(m for done, m in watch.seen if done >= ready.plan.prompts.tokens / 3)\n"
        "print(json.dumps({'third': third, 'last': watch.seen[-1][1]}))\n"
        "ready.close()\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), str(wide_folder("qwen2")), str(corpus), str(tmp_path / "s")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    memory = json.loads(done.stdout.splitlines()[-1])
    assert memory["last"] - memory["third"] < 48, memory  # MiB; the rows are 90 MiB in all
    (run,) = open_store(tmp_path / "s").runs.values()
    assert (run.n_prompts, run.plan.n_shards > 10) == (10_000, True)
    assert run.verify() == []
    table = run.tokens().to_table()
    keys = set(zip(table["prompt_id"].to_pylist(), table["position"].to_pylist(), strict=True))
    assert len(keys) == table.num_rows == run.plan.prompts.tokens
    assert table["entropy"].null_count == 0


@pytest.fixture(scope="module")
def workers_bound() -> dict[str, str]:
    """Two workers, a core each."""
    return {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}


def test_a_rank_that_dies_leaves_committed_shards_and_a_clear_message(
    run_command: Command,
    wide_folder: Callable[[str], Path],
    tmp_path: Path,
    workers_bound: dict[str, str],
) -> None:
    words = [
        *(str(Path(sys.executable).with_name("lpp-capture")), "run"),
        *("--model", str(wide_folder("qwen2")), "--corpus", "pydoc", "--prompts", "100"),
        *("--context", "96", "--store", str(tmp_path / "store"), "--backend", "vllm"),
        *("--tensor-parallel", "2", "--shard-mib", "1"),
    ]
    before = set(Path("/dev/shm").glob("lpp-*"))
    with subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, env={**os.environ, **workers_bound}
    ) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if re.search(r"shard \d+ of", line):  # not every shard has a line
                os.kill(_workers(process.pid)[-1], signal.SIGKILL)
                break
        lines += process.stderr.readlines()
        assert process.wait(120) == 2, "".join(lines)
    message = "".join(lines)
    assert "vLLM stopped while it ran" in message
    assert "Every committed shard is whole; the same command resumes" in message
    (run,) = open_store(tmp_path / "store").runs.values()
    assert 0 < len(run.shards) < run.plan.n_shards
    assert set(Path("/dev/shm").glob("lpp-*")) <= before
    done = run_command("lpp-capture", *words[1:], **workers_bound)
    assert done.returncode == 0, done.stderr
    (run,) = open_store(tmp_path / "store").runs.values()
    assert not run.missing_shards
    assert run.plan.compute.device_map == "tensor_parallel=2"


def _workers(parent: int) -> list[int]:
    """Processes that `parent` started for its ranks, by name."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            status = (folder / "status").read_text()
        except OSError:
            continue
        if f"PPid:\t{parent}\n" in status and "VLLM" in (folder / "cmdline").read_text():
            found.append(int(folder.name))
    assert found, "no worker processes"
    return sorted(found)


def test_a_small_cache_makes_more_steps_and_the_same_rows(
    capture: Capture, wide_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    options = ("--prompts", 40, "--context", 96)
    theirs = capture(tmp_path / "store", wide_folder("mistral"), "torch", *options)
    ours = capture(
        *(tmp_path / "store", wide_folder("mistral"), "vllm", *options),
        *("--engine-option", f"kv_cache_memory_bytes={1 << 20}"),  # a few prompts of forty
    )
    for site in theirs.sites:
        want = states(theirs, site)
        assert np.abs(states(ours, site) - want).max() <= 1e-4 * np.abs(want).max(), site
    np.testing.assert_allclose(
        statistics(ours)["entropy"], statistics(theirs)["entropy"], atol=1e-4
    )


def test_engine_options_are_kept_in_the_plan_and_short_contexts_run(
    run_command: Command, wide_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    done = run_command(
        *("lpp-capture", "run", "--model", wide_folder("gpt2"), "--corpus", "pydoc"),
        *("--prompts", 3, "--context", 5, "--store", tmp_path / "store", "--backend", "vllm"),
        *("--engine-option", "block_size=32", "--engine-option", "seed=7"),
        VLLM_ENABLE_V1_MULTIPROCESSING="1",  # as a cluster's profile may have it
    )
    assert done.returncode == 0, done.stderr
    assert "Triton" not in done.stderr
    (run,) = open_store(tmp_path / "store").runs.values()
    assert run.plan.compute.engine_options == {"block_size": "32", "seed": "7"}


@pytest.mark.parametrize(
    ("extra", "say"),
    [
        (("--engine-option", "pipeline_parallel_size=2"), "no rank sees all sites"),
        (("--engine-option", "enable_prefix_caching=true"), "capture sets it"),
        (("--engine-option", "load_format=dummy"), "not one that capture passes on"),
        (("--engine-option", "max_model_len=64"), "prompts of --context 96"),
        (("--engine-option", "seed"), "is not NAME=VALUE"),
        (("--context", 97), "has 96 positions"),
        (("--attention", "eager"), "--backend vllm cannot follow --attention"),
        (("--device-map", "auto"), "--backend vllm cannot follow --device-map"),
        (("--device", "cuda"), "installed here runs on cpu"),
    ],
)
def test_bad_input_is_one_message(
    wide_folder: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    extra: tuple[object, ...],
    say: str,
) -> None:
    words = (
        *("run", "--model", wide_folder("gpt2"), "--corpus", "pydoc", "--prompts", 3),
        *("--context", 96, "--store", tmp_path / "store", "--backend", "vllm", *extra),
    )
    with pytest.raises(SystemExit) as stopped:  # in this process: importing vLLM takes seconds
        main(list(map(str, words)))
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert say in message
    assert "Traceback" not in message


@pytest.mark.parametrize("family", ["gpt_neox", "wrapped_mistral3"])
def test_classes_that_vllm_runs_otherwise_agree_too(
    capture: Capture, family: str, wide_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    options = ("--dtype", "float32", "--prompts", 20, "--context", 96)
    theirs, ours = (
        capture(tmp_path / "store", wide_folder(family), backend, *options)
        for backend in ("torch", "vllm")
    )
    assert ours.sites == theirs.sites
    for site in theirs.sites:
        want = states(theirs, site)
        assert np.abs(states(ours, site) - want).max() <= 1e-5 * np.abs(want).max(), site
    mine, other = statistics(ours), statistics(theirs)
    for name in ("entropy", "log_z", "max_logprob", "next_logprob"):
        np.testing.assert_allclose(mine[name], other[name], atol=1e-4, err_msg=name)


def test_a_wrapper_without_a_class_in_vllm_is_refused_by_name(
    run_command: Command, wide_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    done = run_command(
        *("lpp-capture", "run", "--model", wide_folder("vipllava"), "--corpus", "pydoc"),
        *("--prompts", 3, "--context", 96, "--store", tmp_path / "store", "--backend", "vllm"),
    )
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "has no class of its own for VipLlavaForConditionalGeneration" in said
    assert "Capture vipllava with --backend torch." in said
    assert "Traceback" not in said


@pytest.mark.parametrize("beside", [("vllm", "--check-sites"), ("vllm+torch",)])
def test_a_class_that_vllm_changes_does_not_run_beside_itself(
    wide_folder: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    beside: tuple[str, ...],
) -> None:
    words = (
        *("run", "--model", wide_folder("gpt_neox"), "--corpus", "pydoc", "--prompts", 3),
        *("--context", 96, "--store", tmp_path / "store", "--backend", *beside),
    )
    with pytest.raises(SystemExit) as stopped:  # before vLLM starts
        main(list(map(str, words)))
    assert stopped.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "has no class of its own for GPTNeoXForCausalLM, and changes" in said
    assert "with --backend vllm and with --backend torch" in said


def test_a_model_that_vllm_does_not_serve_names_the_torch_backend(
    run_command: Command, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    # heads of 12, which no kernel of vLLM's has
    done = run_command(
        *("lpp-capture", "run", "--model", tiny_folder("llama"), "--corpus", "pydoc"),
        *("--prompts", 3, "--context", 96, "--store", tmp_path / "store", "--backend", "vllm"),
    )
    assert done.returncode == 2
    assert "does not run llama" in done.stderr
    assert "--backend torch" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_site_of_the_packaged_model_is_that_of_transformers(
    capture: Capture, packaged: Path, tmp_path: Path
) -> None:
    run = capture(
        *(tmp_path / "store", packaged, "vllm", "--check-sites", "--dtype", "float32"),
        *("--prompts", 2, "--context", 20, "--sites", "final"),
    )
    assert run.verify() == []


SAYS_ITS_START = """
import sys
from vllm.model_executor.models.llama import LlamaForCausalLM

load_weights = LlamaForCausalLM.load_weights

def say_and_load(model, weights):
    sys.__stdout__.write("loading\\n")
    sys.__stdout__.flush()
    return load_weights(model, weights)

LlamaForCausalLM.load_weights = say_and_load
from lpp.store.terminal.entry import capture
sys.argv[0] = "lpp-capture"
capture()
"""


def test_an_interrupted_start_leaves_nothing(packaged: Path, tmp_path: Path) -> None:
    words = ["run", "--model", packaged, "--corpus", "pydoc", "--store", tmp_path / "store"]
    with subprocess.Popen(
        [sys.executable, "-c", SAYS_ITS_START, *map(str, words), "--backend", "vllm"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert "loading\n" in process.stdout
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.splitlines()[-1].startswith("Interrupted. ")
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert not any(tmp_path.glob("store/runs/*"))
