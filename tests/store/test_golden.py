"""Stores of every format version ever released are read, with every value as it was."""

import shutil
from pathlib import Path

import pytest

from lpp.store import RunWriter, create_store, open_store
from lpp.store.format.plan import Plan, parse_plan
from lpp.store.format.tables import PROMPTS_SCHEMA

GOLDEN = Path(__file__).with_name("golden")
RUN = "model-1b-untrained-fec2ad35"


def test_format_1_plan() -> None:
    (run,) = open_store(GOLDEN / "v1").runs.values()
    assert run.id == RUN
    plan = run.plan
    assert plan.hash == "fec2ad356cf95a7ff0f61064182854670ca9959577b0c30e7293506b11d60fda"
    assert run.verify() == []
    model = plan.model
    assert (model.id, model.source, model.revision) == (
        "golden/Model-1B",
        "folder",
        "model-revision",
    )
    assert (model.weights, model.architecture) == ("model-weights", "GoldenForCausalLM")
    assert (model.n_parameters, model.n_blocks, model.hidden_size) == (1001, 1, 2)
    assert (model.logits_width, model.untrained_seed) == (103, 42)
    tokenizer, corpus, compute = plan.tokenizer, plan.corpus, plan.compute
    assert (tokenizer.id, tokenizer.fingerprint) == ("golden/tokenizer", "tokenizer-print")
    assert tokenizer.size == 101
    assert (corpus.name, corpus.revision) == ("golden-corpus", "corpus-revision")
    assert (corpus.fingerprint, corpus.prompt_set) == ("corpus-print", "prompt-set-print")
    selection = {"prompts": 2, "min_bytes": 512, "select": "random", "count_with": None}
    assert corpus.selection == selection
    assert (plan.prompts.count, plan.prompts.tokens) == (2, 5)
    assert plan.prompts.sha256.startswith("bffcf52c64bbc047")
    assert (plan.context, plan.prefixes, plan.logit_positions) == (3, (2, 3), "all")
    assert [(s.name, s.convention, s.width) for s in plan.sites] == [
        ("embed", "residual", 2),
        ("block.1", "residual", 2),
        ("final", "post_norm", 2),
    ]
    assert (compute.backend, compute.device, compute.dtype) == ("torch", "cpu", "float32")
    assert (compute.attention, compute.batch_tokens) == ("eager", 640)
    assert (compute.device_map, compute.quantization) == ("auto", "int8")
    assert compute.trust_remote_code is True
    assert compute.versions == {"torch": "2.13.0", "transformers": "5.1.0"}
    assert (plan.stored_dtype, plan.shards) == ("bfloat16", (0, 1, 2))


def test_format_1_tables() -> None:
    run = open_store(GOLDEN / "v1").runs[RUN]
    digests = [
        "5b10ce92f0bb26735e806acca27751e9cf0a7859c9d0fcdbd4011c0c5e60c8c9",
        "ba7ef9af6796ba63d48b9fe492e418ab555c1dd3480f65e2853b181d88bb0394",
    ]
    prompts = run.prompts()
    assert prompts.schema.equals(PROMPTS_SCHEMA)
    assert prompts.drop_columns(["sha256"]).to_pydict() == {
        "prompt_id": [0, 1],
        "source_row": [40, 70],
        "token_ids": [[11, 12, 13], [21, 22]],
        "n_tokens": [3, 2],
        "truncated": [True, False],
    }
    assert prompts["sha256"].to_pylist() == digests
    assert run.tokens().to_table().to_pydict() == {
        "prompt_id": [0, 0, 0, 1, 1],
        "position": [0, 1, 2, 0, 1],
        "token_id": [11, 12, 13, 21, 22],
        "entropy": [1.25, 2.25, 3.25, 4.25, 5.25],
        "log_z": [31.5, 32.5, 33.5, 34.5, 35.5],
        "max_logprob": [-0.125, -0.25, -0.375, -0.5, -0.625],
        "margin": [0.0625, 0.125, 0.1875, 0.25, 0.3125],
        "next_logprob": [-0.5, -1.0, None, -2.0, None],
        "next_rank": [201, 202, None, 204, None],
        "top1_id": [61, 62, 63, 64, 65],
        "varentropy": [None] * 5,  # added later: absent from the file
    }


@pytest.mark.parametrize(("site", "scale"), [("embed", 1.0), ("block.1", 10.0), ("final", 100.0)])
def test_format_1_activations(site: str, scale: float) -> None:
    first, second = open_store(GOLDEN / "v1").runs[RUN].blocks(site)
    assert (first.values / scale).tolist() == [[1, -1], [2, -2], [3, -3]]
    assert (second.values / scale).tolist() == [[4, -4], [5, -5]]
    assert (first.prompt_id.tolist(), second.prompt_id.tolist()) == ([0, 0, 0], [1, 1])
    assert (first.position.tolist(), second.position.tolist()) == ([0, 1, 2], [0, 1])


def test_format_1_run_is_resumed(tmp_path: Path) -> None:
    golden = open_store(GOLDEN / "v1").runs[RUN]
    root = create_store(tmp_path / "store").path
    shutil.copytree(golden.path, root / "runs" / RUN)
    plan = parse_plan(golden.plan.document, "golden")
    assert isinstance(plan, Plan)
    writer = RunWriter(root, plan, golden.prompts())
    assert writer.uncommitted([0, 1]) == []
