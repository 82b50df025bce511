"""What writing after each prompt and capturing it costs beside `generate` alone, same tokens.

Ours writes (with ln p of each token, committed to the store) and then captures prompt and
continuation in one pass. The other side is transformers' own greedy search over the same batches.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import torch

from benchmarks.capture_cost import loaded_module
from benchmarks.pairs import Ratio, ratio_of_times, timed_pairs
from benchmarks.setting import capture, request, scratch
from lpp.capture.engine.continuations import continue_prompts
from lpp.capture.engine.prepare import Prepared, prepare
from lpp.capture.models.device import kind_of
from lpp.capture.plan.batches import group_by_budget
from lpp.capture.plan.parts import WHOLE
from lpp.capture.plan.request import CaptureRequest, ContinuationSpec
from lpp.store import create_store
from lpp.store.format.prompt_columns import CONTINUATION_COLUMNS
from lpp.store.format.rows import token_ids_sha256
from lpp.store.progress import SILENT

PROMPTS: Final = 16
TOKENS: Final = (32, 64)
REPEATS: Final = 3


def measure(prompts: int = PROMPTS, lengths: Sequence[int] = TOKENS) -> Iterator[Ratio]:
    """The bar of continuations with transformers, for some numbers of written tokens."""
    for tokens in lengths:
        with scratch() as folder:
            wanted = request(prompts, continuation=ContinuationSpec(tokens=tokens))
            ready = prepare(wanted, root=folder / "first")
            ours = continuing(wanted, ready, folder)
            times = timed_pairs(ours, generating(ready, tokens), REPEATS)
            ready.close()
        yield ratio_of_times(
            f"continuation of {tokens} tokens and capture, all sites and all logit statistics / "
            "`generate` alone, same tokens",
            times,
            bar=1.6,
            bound="the captured pass computes every token once more",
        )


def continuing(wanted: CaptureRequest, ready: Prepared, folder: Path) -> Callable[[], None]:
    """Write after every prompt and capture, into a new store each time. ready: of `wanted`."""
    given = given_prompts(ready)
    numbers = itertools.count()

    def run() -> None:
        root = folder / f"run-{next(numbers)}"
        store = create_store(root).objects
        continue_prompts(store, wanted, ready.backend, given, part=WHOLE, progress=SILENT)
        capture(ready, root)

    return run


def given_prompts(ready: Prepared) -> pa.Table:
    """The prompts of a plan as they were before the model wrote."""
    prompts = ready.prompts
    ids = [
        np.asarray(tokens[:given], np.int32)
        for tokens, given in zip(
            prompts["token_ids"].to_pylist(), prompts["n_given"].to_pylist(), strict=True
        )
    ]
    changed = {
        "token_ids": ids,
        "n_tokens": [len(tokens) for tokens in ids],
        "sha256": [token_ids_sha256(tokens) for tokens in ids],
    }
    found = prompts.drop_columns([*CONTINUATION_COLUMNS])
    for name, values in changed.items():
        place = found.schema.get_field_index(name)
        column = pa.array(values, found.schema.field(name).type)
        found = found.set_column(place, found.schema.field(name), column)
    return found


def generating(ready: Prepared, tokens: int) -> Callable[[], None]:
    """Transformers' greedy search over the same prompts, as many at once."""
    module = loaded_module(ready)
    ids = [
        torch.tensor(prompt["token_ids"][: prompt["n_given"]])
        for prompt in ready.prompts.to_pylist()
    ]
    assert len({len(one) for one in ids}) == 1, "the built-in texts are longer than the context"
    budget = kind_of(ready.plan.compute.device).writing_tokens
    groups = group_by_budget([len(one) + tokens for one in ids], budget)

    @torch.inference_mode()
    def run() -> None:
        for group in groups:
            batch = torch.stack([ids[index] for index in group])
            module.generate(
                batch,
                attention_mask=torch.ones_like(batch),
                max_new_tokens=tokens,
                do_sample=False,
                use_cache=True,
            )

    return run
