"""Stores of every format version since 0.2.0 are read, with every value as it was."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from golden_stores import GOLDEN, OF_3, golden_3, records_of
from zarr_arrays import rows_of

from lpp.analyze.logits.proof import check_logits
from lpp.store import open_store, read_scores
from lpp.store.format.plan import Series
from lpp.store.format.tables import STATISTICS
from lpp.store.objects.locate import objects_at
from lpp.store.runs.replay import written_tokens
from lpp.store.runs.verify import verify_root
from lpp.store.scores.scores import score_sets, verify_scores
from lpp.store.shared.continuations import kept_seed, read_block
from lpp.store.shared.logits import Steps
from lpp.store.shared.verify import verify_shared
from tests.store.make_golden import (
    FLOAT8_ROWS,
    given_sink,
    golden_plan,
    golden_prompts,
    golden_source,
)

SHARED = "shared-d89a73fc"


# Format 3. What 0.2.0 stored beside rows is read in test_moments.py.


def test_format_3_plan() -> None:
    plan = golden_3()[OF_3].plan
    assert plan.has_moments
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
    assert compute.engine_options == {"max_num_seqs": "8"}
    assert (plan.stored_dtype, plan.shards) == ("bfloat16", (0, 1, 2))


def test_format_3_is_whole() -> None:
    runs = golden_3()
    assert sorted(runs) == ["float16-4b3b7ace", "float32-3478c1ec", OF_3, SHARED]
    assert [run.verify() for run in runs.values()] == [[], [], [], []]
    assert verify_root(GOLDEN / "v3") == verify_scores(GOLDEN / "v3") == []
    assert verify_shared(GOLDEN / "v3") == []
    records = [record for run in runs.values() for record in records_of(run)]
    assert {record.format for record in records} == {3}
    assert all(record.base for record in records)


def test_format_3_plans_of_other_dtypes() -> None:
    first = golden_plan(golden_prompts())
    for name in ("float16", "float32"):
        (run,) = (run for key, run in golden_3().items() if key.startswith(name))
        model = replace(first.model, id=f"golden/{name}.gguf", untrained_seed=None)
        assert run.plan == replace(
            first,
            model=model,
            stored_dtype=name,
            sites=first.sites[-1:],
            logit_positions="schedule",
            shards=(0, 2),
        )


def test_format_3_prompts_and_texts() -> None:
    for run in golden_3().values():
        assert run.prompts().equals(golden_prompts())
    assert golden_3()[OF_3].texts_set_aside().to_pylist() == [
        {"source_row": 5, "reason": "empty", "detail": "no characters"},
        {"source_row": 6, "reason": "not_utf8", "detail": "byte 0xff at 3"},
    ]
    aside = {"prompt_id": 1, "reason": "not_finite", "site": "embed", "position": 0}
    assert golden_3()[OF_3].quarantine.to_pylist() == [{**aside, "detail": "NaN at token 0"}]


def test_format_3_tokens() -> None:
    every = {
        "prompt_id": [0, 0, 0, 1, 1],
        "position": [0, 1, 2, 0, 1],
        "token_id": [11, 12, 13, 21, 22],
    }
    assert golden_3()[OF_3].tokens().to_table().to_pydict() == {
        **every,
        "entropy": [1.25, 2.25, 3.25, None, None],
        "log_z": [31.5, 32.5, 33.5, None, None],
        "max_logprob": [-0.125, -0.25, -0.375, None, None],
        "margin": [0.0625, 0.125, 0.1875, None, None],
        "next_logprob": [-0.5, -1.0, None, None, None],
        "next_rank": [201, 202, None, None, None],
        "top1_id": [61, 62, 63, None, None],
        "varentropy": [1.75, 2.75, 3.75, None, None],
    }
    assert golden_3()["float16-4b3b7ace"].tokens().to_table().to_pydict() == {
        **every,
        "entropy": [None, 2.25, 3.25, None, 5.25],
        "log_z": [None, 32.5, 33.5, None, 35.5],
        "max_logprob": [None, -0.25, -0.375, None, -0.625],
        "margin": [None, 0.125, 0.1875, None, 0.3125],
        "next_logprob": [None, -1.0, None, None, None],
        "next_rank": [None, 202, None, None, None],
        "top1_id": [None, 62, 63, None, 65],
        "varentropy": [None, 2.75, 3.75, None, 5.75],
    }


@pytest.mark.parametrize(("site", "scale"), [("embed", 1.0), ("block.1", 10.0), ("final", 100.0)])
def test_format_3_activations(site: str, scale: float) -> None:
    run = golden_3()[OF_3]
    (block,) = run.blocks(site)  # without the prompt that is set aside
    assert (block.values / scale).tolist() == [[1, -1], [2, -2], [3, -3]]
    assert (block.prompt_id.tolist(), block.position.tolist()) == ([0, 0, 0], [0, 1, 2])
    layouts = [
        len(shard.record.objects[f"hidden.zarr/{site}/c/0/0"].chunks) for shard in run.shards
    ]
    assert layouts == [2, 1]


def test_format_3_keeps_bits() -> None:
    runs = golden_3()
    bits = rows_of(runs[OF_3].array("embed", dtype="stored"))
    assert bits[3:].tolist() == [[0x7FC1, 0x8000], [0x7F80, 0xFF81]]
    half = rows_of(runs["float16-4b3b7ace"].array("final", dtype="stored")).view("<u2")
    assert half.tolist() == [
        [0x3E00, 0x8000],
        [0x4100, 0x0001],
        [0x4300, 0xFBFF],
        [0x4480, 0x2E66],
        [0x4580, 0xC580],
    ]
    single = rows_of(runs["float32-3478c1ec"].array("final", dtype="stored")).view("<u4")
    assert single.tolist() == [
        [0x3FC00000, 0x80000000],
        [0x40200000, 0x00000001],
        [0x40600000, 0xFF61B1E6],
        [0x40900000, 0x3DCCCCCD],
        [0x40B00000, 0xC0B00000],
    ]


def test_format_3_scores() -> None:
    (source,) = score_sets(GOLDEN / "v3")
    assert source.record.source == "golden board"
    same = {"benchmark": "arc", "metric": "acc", "source": "golden board", "kind": "csv"}
    one = {"model": "Model-1B", "run": "model-1b-untrained", "value": 0.25, "stderr": 0.125}
    two = {"model": "Model-2B", "run": None, "value": 0.75, "stderr": None}
    assert read_scores(GOLDEN / "v3").to_pylist() == [
        {**same, **one, "n": 40},
        {**same, **two, "n": None},
    ]
    lines = b"model,arc\nModel-1B,0.25\nModel-2B,0.75\n"
    assert source.original() == {"board.csv": lines}


def test_format_3_series_and_continuation() -> None:
    run = golden_3()[SHARED]
    assert run.plan.model.series == Series(name="golden run", step=1000)
    written = run.plan.continuation
    assert written is not None
    assert (written.given_context, written.tokens, written.end_ids) == (2, 1, (2, 5))
    assert (written.temperature, written.seed) == ("0.7", 7)
    source = golden_source(run.plan)
    root = objects_at(GOLDEN / "v3")
    assert kept_seed(root, source) == 7
    block = read_block(root, source, 0, 2)
    assert block is not None
    assert block.to_pydict() == {
        "prompt_id": [0, 1],
        "token_ids": [[13], [22]],
        "logprobs": [[-1.5], [-0.25]],
    }
    assert written_tokens(run).to_pydict() == {
        "prompt_id": [0, 1],
        "position": [2, 1],
        "written_logprob": [-1.5, -0.25],
        "replay_logprob": [-1.0, -2.0],
        "replay_rank": [202, 204],
    }


def test_format_3_columns_of_prompts() -> None:
    runs = golden_3()
    names = [
        *("n_given", "written_logprob", "id", "text"),
        *("field.count", "field.label", "field.score", "field.train"),
    ]
    assert runs[SHARED].extra_columns.names == names
    assert [len(run.extra_columns) for run in runs.values()] == [0, 0, 0, 8]
    assert runs[SHARED].prompts(*names).select(names).to_pydict() == {
        "n_given": [2, 1],
        "written_logprob": [[-1.5], [-0.25]],
        "id": [9007199254740993, None],
        "text": ["a text, é", None],
        "field.count": [-3, None],
        "field.label": [None, "news"],
        "field.score": [None, 0.5],
        "field.train": [True, None],
    }


def test_format_3_head() -> None:
    runs = golden_3()
    assert [run.head() is not None for run in runs.values()] == [False, False, False, True]
    head = runs[SHARED].head()
    assert head is not None
    assert (head.vocabulary, head.width, head.dtype) == (103, 2, "float32")
    assert head.steps == Steps(divisor=4.0)
    logits = head.logits(np.array([[4, 0.5], [-2, 7]], np.float32))
    assert logits.tolist() == [[v + 2 for v in range(103)], [2 - v / 2 for v in range(103)]]
    check = check_logits(runs[SHARED])
    assert check is not None
    assert (check.tokens, check.problem) == (5, "")


def test_format_3_vocabulary() -> None:
    for run in golden_3().values():
        found = run.vocabulary()
        assert found is not None
        assert found.to_pydict() == {
            "id": [0, 11, 12, 100],
            "bytes": [None, b" the", b"\xf0\x9f", b"\n"],
            "text": ["<|end|>", " the", "\ufffd", "\n"],
        }


# Format 4.


def test_format_4_branch() -> None:
    (run,) = open_store(GOLDEN / "v4").runs.values()
    assert (run.id, run.verify()) == ("branches-24167b8b", [])
    assert (run.commit.format, [shard.record.format for shard in run.shards]) == (4, [3, 3])
    assert run.plan.prompts.branches == (
        "e0445960d3517fe73b415bad54d6609f03b461aaf16c7f53a97cf562e3c49912"
    )
    assert run.prompts("branch_of", "branch_at").to_pydict() == {
        "prompt_id": [0, 1],
        "source_row": [40, 70],
        "token_ids": [[11, 12, 13], [21, 22]],
        "n_tokens": [3, 2],
        "truncated": [True, False],
        "sha256": [
            "5b10ce92f0bb26735e806acca27751e9cf0a7859c9d0fcdbd4011c0c5e60c8c9",
            "ba7ef9af6796ba63d48b9fe492e418ab555c1dd3480f65e2853b181d88bb0394",
        ],
        "branch_of": [None, 0],
        "branch_at": [None, 1],
    }
    assert [part.tolist() for part in run.branches] == [[-1, 0], [0, 1]]
    whole, every = (list(run.blocks("final", branches=flag)) for flag in (False, True))
    assert [block.prompt_id.tolist() for block in whole] == [[0, 0, 0]]
    assert [block.prompt_id.tolist() for block in every] == [[0, 0, 0], [1, 1]]
    assert every[1].values.tolist() == [[400, -400], [500, -500]]


# Format 5.


def test_format_5_given_rows() -> None:
    run = open_store(GOLDEN / "v5").run("given-*")
    assert (run.id, run.verify()) == ("given-713ead4e", [])
    assert (run.commit.format, [shard.record.format for shard in run.shards]) == (5, [3, 3])
    plan = run.plan
    assert (plan.model.source, plan.model.revision, plan.model.weights) == (
        "given",
        "given-revision",
        "",
    )
    assert (plan.logit_positions, plan.stored_dtype, plan.shards) == ("none", "bfloat16", (0, 1, 2))
    assert [(s.name, s.convention, s.width, plan.dtype_of(s)) for s in plan.sites] == [
        ("blocks.0.hook_z", "given", 2, "bfloat16"),
        ("blocks.0.scale", "given", 1, "float32"),
        ("router.0", "given", 2, "uint8"),
    ]
    assert (plan.compute.backend, plan.compute.versions) == ("golden-collector", {"golden": "1.0"})
    assert [plan.depth_of(site) for site in run.sites] == [1, 2, 3]
    assert run.prompts("id", "field.label").select(["id", "field.label"]).to_pydict() == {
        "id": ["a", "b"],
        "field.label": [1.5, None],
    }
    detail = "id 103 at position 0, ids are 0 to 102"
    aside = {"source_row": 2, "reason": "bad_tokens", "detail": detail}
    assert run.texts_set_aside().to_pylist() == [aside]
    failed = {"prompt_id": 1, "reason": "failed", "site": None, "position": None}
    assert run.quarantine.to_pylist() == [{**failed, "detail": "no rows"}]
    rows = {site: rows_of(run.array(site, dtype="stored")).tolist() for site in run.sites}
    assert rows["blocks.0.hook_z"][:3] == [[0x3F80, 0xBF80], [0x4000, 0xC000], [0x4040, 0xC040]]
    assert rows["blocks.0.scale"] == [[np.float32(k / 10)] for k in (1, 2, 3, 0, 0)]
    assert rows["router.0"] == [[1, 255], [2, 254], [3, 253], [0, 0], [0, 0]]
    tokens = run.tokens().to_table()
    assert tokens["token_id"].to_pylist() == [11, 12, 13, 21, 22]
    assert all(tokens[name].null_count == 5 for name in STATISTICS)


def test_format_5_goes_on(tmp_path: Path) -> None:
    root = Path(shutil.copytree(GOLDEN / "v5", tmp_path / "store"))
    run = open_store(root).run("given-*")
    shutil.rmtree(root / "runs" / run.id / "shards/00001")
    with pytest.warns(UserWarning, match=r"prompts\[2\]"):
        given_sink(root).set_aside(1, "no rows")
    assert open_store(root).runs[run.id].verify() == []
    assert open_store(root).runs[run.id].quarantine.to_pylist() == run.quarantine.to_pylist()


def test_format_5_rows_of_8_bits_and_values_by_token() -> None:
    run = open_store(GOLDEN / "v5").run("fp8-*")
    assert (run.verify(), run.commit.format) == ([], 5)
    assert [run.plan.dtype_of(site) for site in run.plan.sites] == ["float8_e4m3", "float32"]
    assert rows_of(run.array("block.1"))[0].tolist() == [448, 16, 2**-9, 0]
    assert rows_of(run.array("final"))[0].tolist() == FLOAT8_ROWS[0].tolist()
    mask = run.prompts("token.loss_mask")["token.loss_mask"]
    assert mask.to_pylist() == [[False, True, True], None]
