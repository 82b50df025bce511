"""Make the golden store of the current format version: `python tests/store/make_golden.py`.

Run once for each format version, when it is frozen, and never again: every later release must
read what this one wrote. `golden/v1` was made before the column `varentropy` was added, and lacks
it. `golden/v2` holds what version 2 brings: moments, and a prompt that is set aside. Values are
distinct, so that no two columns can be taken for each other.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from lpp.store import RunWriter, create_store
from lpp.store.arrays.moments import SiteMoments
from lpp.store.format.plan import (
    ComputeInfo,
    CorpusInfo,
    ModelInfo,
    Plan,
    PromptsInfo,
    SiteSpec,
    TokenizerInfo,
)
from lpp.store.format.quarantine import SetAside, quarantine_table
from lpp.store.format.tables import PROMPTS_SCHEMA, STATISTICS, TOKENS_SCHEMA

SCALE = {"embed": 1, "block.1": 10, "final": 100}
TOKEN_IDS = ([11, 12, 13], [21, 22])


def golden_prompts() -> pa.Table:
    """Two prompts, of three tokens and of two."""
    digests = [hashlib.sha256(np.array(ids, "<i4").tobytes()).hexdigest() for ids in TOKEN_IDS]
    columns = [[0, 1], [40, 70], list(TOKEN_IDS), [3, 2], [True, False], digests]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, PROMPTS_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=PROMPTS_SCHEMA)


def golden_plan(prompts: pa.Table) -> Plan:
    """Every field with a value of its own."""
    digests = b"".join(bytes.fromhex(text) for text in prompts["sha256"].to_pylist())
    return Plan(
        model=ModelInfo(
            id="golden/Model-1B",
            source="folder",
            revision="model-revision",
            weights="model-weights",
            architecture="GoldenForCausalLM",
            n_parameters=1001,
            n_blocks=1,
            hidden_size=2,
            logits_width=103,
            untrained_seed=42,
        ),
        tokenizer=TokenizerInfo(id="golden/tokenizer", fingerprint="tokenizer-print", size=101),
        corpus=CorpusInfo(
            name="golden-corpus",
            revision="corpus-revision",
            fingerprint="corpus-print",
            prompt_set="prompt-set-print",
            selection={"prompts": 2, "min_bytes": 512, "select": "random", "count_with": None},
        ),
        prompts=PromptsInfo(count=2, tokens=5, sha256=hashlib.sha256(digests).hexdigest()),
        context=3,
        prefixes=(2, 3),
        logit_positions="all",
        sites=(
            SiteSpec(name="embed", convention="residual", width=2),
            SiteSpec(name="block.1", convention="residual", width=2),
            SiteSpec(name="final", convention="post_norm", width=2),
        ),
        compute=ComputeInfo(
            backend="torch",
            device="cpu",
            dtype="float32",
            attention="eager",
            batch_tokens=640,
            device_map="auto",
            quantization="int8",
            trust_remote_code=True,
            versions={"torch": "2.13.0", "transformers": "5.1.0"},
        ),
        stored_dtype="bfloat16",
        shards=(0, 1, 2),
    )


def golden_shard(index: int) -> tuple[dict[str, np.ndarray], pa.Table]:
    """Rows k of shard `index`: embed k + 1, block.1 10 (k + 1), final 100 (k + 1), then negated."""
    ids = TOKEN_IDS[index]
    k = np.arange(len(ids)) + (3 if index else 0) + 1
    hidden = {
        site: (np.stack([k * by, -k * by], 1).astype("<f4").view("<u4") >> 16).astype(np.uint16)
        for site, by in SCALE.items()
    }
    last = k == k[-1]
    columns = {
        "prompt_id": np.full(len(ids), index),
        "position": np.arange(len(ids)),
        "token_id": ids,
        "entropy": k + 0.25,
        "log_z": k + 30.5,
        "max_logprob": -k / 8,
        "margin": k / 16,
        "next_logprob": pa.array(-k / 2.0, mask=last),
        "next_rank": pa.array(k + 200, mask=last),
        "top1_id": k + 60,
        "varentropy": k + 0.75,
    }
    arrays = [pa.array(columns[f.name]).cast(f.type) for f in TOKENS_SCHEMA]
    return hidden, pa.Table.from_arrays(arrays, schema=TOKENS_SCHEMA)


def golden_moments() -> dict[str, SiteMoments]:
    """Of the rows of shard 0: k = 1, 2 in the first band, k = 3 in the second."""
    return {
        site: SiteMoments(
            n=np.array([2, 1]),
            mean=np.array([[1.5, -1.5], [3.0, -3.0]]) * by,
            scatter=np.array([[0.5, -0.5, 0.5], [0, 0, 0]], np.float32) * np.float32(by**2),
        )
        for site, by in SCALE.items()
    }


def nothing() -> dict[str, SiteMoments]:
    """Of a shard whose only prompt is set aside."""
    empty = SiteMoments(
        n=np.zeros(2, np.int64), mean=np.zeros((2, 2)), scatter=np.zeros((2, 3), np.float32)
    )
    return dict.fromkeys(SCALE, empty)


def main() -> None:
    """Write the store of version 2 beside this script."""
    prompts = golden_prompts()
    root = Path(__file__).with_name("golden") / "v2"
    if root.exists():
        raise SystemExit(f"{root} is frozen: remove it only before its version is released.")
    plan = replace(golden_plan(prompts), keep="both", moments_dtype="float32")
    writer = RunWriter(create_store(root).path, plan, prompts)
    writer.write_shard(0, *golden_shard(0), moments=golden_moments())
    hidden, tokens = golden_shard(1)
    for name in STATISTICS:
        place = tokens.schema.get_field_index(name)
        tokens = tokens.set_column(
            place, tokens.field(place), pa.nulls(tokens.num_rows, tokens.field(place).type)
        )
    aside = SetAside(prompt_id=1, reason="not_finite", site="final", position=1, detail="told")
    writer.write_shard(1, hidden, tokens, quarantine_table([aside]), moments=nothing())
    print(f"{writer.run.path}: {writer.run.verify() or 'whole'}")


if __name__ == "__main__":
    main()
