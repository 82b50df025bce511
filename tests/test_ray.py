"""Ray: the same bits as one process, with a node lost on the way, and nothing left behind."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
pytestmark = pytest.mark.slow  # clusters

ROOT = Path(__file__).resolve().parents[1]
NODES = ROOT / "tests" / "support" / "ray_nodes.py"
GONE_SECONDS = 90.0
"""For what Ray started to end once it was told to; a worker looks for its node for a minute."""

Nodes = Callable[..., Mapping[str, Any]]


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """For a process that starts Ray: all that comes of it can be told by the token."""
    token = f"lpp{secrets.token_hex(16)}"
    folder = tempfile.mkdtemp(prefix="lpp-", dir="/tmp")  # sockets need short paths
    yield {
        **os.environ,
        "RAY_AUTH_TOKEN": token,
        "RAY_TMPDIR": folder,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "80",
    }
    left = carrying(token)
    until = time.monotonic() + GONE_SECONDS
    while left and time.monotonic() < until:
        time.sleep(0.1)
        left = carrying(token)
    for pid in left:
        os.kill(pid, 9)
    shutil.rmtree(folder, ignore_errors=True)
    assert left == [], "processes that Ray left behind"


def carrying(token: str) -> list[int]:
    """Processes of this machine that were started with `token`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if token.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.fixture
def nodes(environment: dict[str, str]) -> Nodes:
    """`nodes("analysis", folder)`: what two nodes told at the end, one of them killed midway."""

    def run(*words: object) -> Mapping[str, Any]:
        done = subprocess.run(
            [sys.executable, str(NODES), *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stderr[-6000:]
        told: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return told

    return run


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two blocks with a tokenizer of bytes, as a folder."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("model")
    letters = ["<s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>", pad_token="<s>"
    ).save_pretrained(folder)
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=len(letters),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.soak  # every run tests a process that is killed in a task
def test_analysis_with_a_node_lost_has_the_bits_of_one_process(
    nodes: Nodes, tmp_path: Path
) -> None:
    told = nodes("analysis", tmp_path)
    assert told["killed"] > 0
    assert told["alive"] == 1
    assert told["rows"] == 2 * 10 * 2  # sites, prefixes, numbers of prompts


def test_capture_with_a_node_lost_has_the_bytes_of_one_process(
    nodes: Nodes, tmp_path: Path, tiny_llama: Path
) -> None:
    told = nodes("capture", tmp_path, tiny_llama)
    assert told["killed"] > 0
    assert told["lost"] > 0
    assert told["same"]
    assert told["missing"] == 0
    assert told["captured"] + told["lost_race"] == told["shards"] > 8


def test_analysis_with_a_process_killed_in_a_task_has_the_bits_of_one_process(
    nodes: Nodes, tmp_path: Path
) -> None:
    assert nodes("analysis-worker", tmp_path) == {"killed": 1, "rows": 2 * 10 * 2}


@pytest.mark.soak  # every run tests a node that is lost with its actors
def test_capture_with_an_actor_killed_in_a_shard_has_the_bytes_of_one_process(
    nodes: Nodes, tmp_path: Path, tiny_llama: Path
) -> None:
    told = nodes("capture-worker", tmp_path, tiny_llama)
    assert told["killed"] == 1
    assert told["same"]
    assert told["missing"] == 0
    assert 0 < told["captured"] <= told["shards"]


def test_drift_by_two_nodes_has_the_bits_of_one_process(nodes: Nodes, tmp_path: Path) -> None:
    told = nodes("drift", tmp_path)
    assert told["processors"] == 2
    # spans of tokens; of each of two sites the spectra of both runs, and what needs both
    assert told["tasks"] == 2 + 2 * 3
    assert told["tokens"] == 2500
    assert told["changed"] > 0


@pytest.mark.soak
def test_capture_of_many_shards_with_a_node_lost(
    nodes: Nodes, tmp_path: Path, tiny_llama: Path
) -> None:
    assert nodes("capture", tmp_path, tiny_llama, 600)["same"]
