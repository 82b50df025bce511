"""What a capture costs on a card beside the model, by counting on the simulated card of the tests.

Counts are the same on every machine, so a change that would make a card wait is seen without one.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final
from unittest.mock import patch

from benchmarks.gpu import CONTEXT, Random, Shape, random_backend
from benchmarks.pairs import Ratio, ratio_once
from lpp.capture.engine.shard_buffer import ShardBuffer
from lpp.capture.models.device import KINDS, peak_of
from lpp.capture.plan.backend import Outputs

BATCHES: Final = 4
SHAPE: Final = Shape(
    name="the width and depth of SmolLM2",
    width=576,
    blocks=30,
    config={
        "intermediate_size": 576,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 1000,
    },
)


def measure() -> Iterator[Ratio]:
    """Of a model in bfloat16, four batches of one prompt."""
    sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
    from simulated_card import card

    kind = replace(KINDS["cuda"], tried="by tests", batch_tokens=CONTEXT)
    with patch.dict(KINDS, sim=kind), card.fresh():
        made = random_backend(SHAPE, "sim", BATCHES * CONTEXT, shard_bytes=1 << 30)
        outputs = Outputs.of(made.plan)
        sites = len(outputs.sites)
        _capture(made, outputs, 1)  # what a first batch allocates stays
        predicted = peak_of("sim", lambda: _capture(made, outputs, 2))
        peak = peak_of("sim", lambda: _capture(made, outputs, BATCHES))
        every, stored = _counted(made, outputs)
        one, _ = _counted(made, replace(outputs, sites=("final",)))
    assert predicted is not None
    assert peak is not None
    waits, pageable = every["waits"] / BATCHES, every["pageable copies"]
    of = f"a batch of {sites} sites, counted on a simulated card"
    yield ratio_once(f"waits of the host, {of}", f"{waits:g}", "1", waits, bar=1)
    yield ratio_once(f"pageable copies, {of}, and 1", f"{pageable + 1}", "1", pageable + 1, bar=1)
    moved = every["bytes to host"] + every["bytes to card"]
    yield ratio_once(
        f"bytes copied / bytes stored, {of}", f"{moved}", f"{stored}", moved / stored, bar=1.01
    )
    more = (every["launches"] - one["launches"]) / BATCHES / (sites - 1)
    yield ratio_once(
        f"kernels and copies that one more site launches, {of}", f"{more:g}", "1", more, bar=5
    )
    yield ratio_once(
        "memory of a card as --dry-run measures it / live bytes of the capture",
        f"{predicted}",
        f"{peak}",
        predicted / peak,
        bar=1.15,
    )


def _counted(made: Random, outputs: Outputs) -> tuple[Counter[str], int]:
    """What the card counts in a capture of every batch, and the bytes that are stored."""
    from simulated_card import card

    card.counts.clear()
    stored = _capture(made, outputs, BATCHES)
    return Counter(card.counts), stored


def _capture(made: Random, outputs: Outputs, batches: int) -> int:
    """Bytes of rows and statistics of so many batches."""
    memory = ShardBuffer(made.plan, made.prompts, made.backend.allocate)
    stored = 0
    for done in made.backend.capture([*memory.batches(0)][:batches], outputs):
        stored += sum(rows.nbytes for rows in done.batch.hidden.values())
        stored += sum(values.nbytes for values in done.statistics.values())
    return stored
