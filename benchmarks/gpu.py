"""What a capture reaches on a GPU, and which stage saturates first: `make bench-gpu`.

Models of random weights, made on the card from their configuration alone: no download, no corpus.
Each stage runs alone, then the whole capture. A stage's rate in tokens a second is what a capture
would reach if nothing else took time, so the slowest stage is the one to make faster. Takes a few
minutes on one card.
"""

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers

from benchmarks import card_results
from benchmarks.card_results import Stage, slowest
from benchmarks.pairs import seconds
from benchmarks.pipeline_cost import compress_all, write_files
from benchmarks.setting import scratch
from benchmarks.synthetic import prompts_table, synthetic_plan
from lpp.capture.backends.torch_backend import TorchBackend
from lpp.capture.backends.torch_passes import passes
from lpp.capture.engine.capture import capture_run
from lpp.capture.engine.shard_buffer import ShardBuffer
from lpp.capture.models.spec import Model
from lpp.capture.models.structure.anatomy import forward_inputs
from lpp.capture.plan.backend import Batch, Outputs
from lpp.capture.plan.batches import shard_batches
from lpp.capture.plan.planning import default_batch_tokens
from lpp.capture.plan.request import SHARD_BYTES
from lpp.store import RunWriter, create_store
from lpp.store.arrays.blosc import compress
from lpp.store.arrays.decode_pool import usable_cores
from lpp.store.arrays.layout import chunk_rows
from lpp.store.format.schedule import shard_boundaries

CONTEXT: Final = 200
SHARDS: Final = 4
REPEATS: Final = 3


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model by its configuration."""

    name: str
    width: int
    blocks: int
    config: dict[str, Any]
    """Further arguments of `Qwen2Config`."""


SHAPES: Final = (
    Shape(
        name="Qwen2.5-7B, V = 152,064",
        width=3584,
        blocks=28,
        config={
            "intermediate_size": 18944,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152_064,
            "tie_word_embeddings": False,
        },
    ),
    Shape(
        name="Qwen2.5-0.5B, V = 151,936: the unembedding is a third of the work",
        width=896,
        blocks=24,
        config={
            "intermediate_size": 4864,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": 151_936,
            "tie_word_embeddings": True,
        },
    ),
)


def random_backend(shape: Shape, device: str, tokens: int, shard_bytes: int) -> "Random":
    """A model of random weights on `device`, and a plan of at least so many tokens."""
    config = transformers.Qwen2Config(
        hidden_size=shape.width,
        num_hidden_layers=shape.blocks,
        use_cache=False,
        **shape.config,
    )
    torch.manual_seed(0)
    with torch.device(device):
        module = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    module.eval().requires_grad_(False)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, config.vocab_size, (-(-tokens // CONTEXT), CONTEXT), dtype=np.int32)
    sites = ("embed", *(f"block.{k}" for k in range(1, shape.blocks + 1)), "final")
    token_bytes = 2 * shape.width * len(sites)
    prompts = prompts_table([*ids])
    plan = synthetic_plan(
        prompts,
        CONTEXT,
        dim=shape.width,
        sites=sites,
        shards=shard_boundaries([CONTEXT] * len(ids), token_bytes, shard_bytes),
    )
    kind = torch.device(device).type
    batch_tokens = default_batch_tokens(kind, token_bytes, CONTEXT)
    plan = replace(
        plan,
        model=replace(plan.model, logits_width=config.vocab_size),
        compute=replace(plan.compute, device=kind, batch_tokens=batch_tokens),
    )
    model = Model(
        info=plan.model,
        tokenizer_info=plan.tokenizer,
        tokenizer=None,
        folder=Path(),
        max_positions=None,
        dtype="bfloat16",
        module=module,
    )
    backend = TorchBackend(model, plan.compute)
    return Random(plan=plan, prompts=prompts, backend=backend, token_bytes=token_bytes)


@dataclass(frozen=True, kw_only=True)
class Random:
    """A model of random weights with its plan."""

    plan: Any
    prompts: Any
    backend: TorchBackend
    token_bytes: int
    """Bytes of a token over all sites."""

    def shard_tokens(self) -> int:
        """Of the first shard."""
        return sum(len(batch.token_ids) for batch in shard_batches(self.plan, self.prompts, 0))


def stages(random: Random, folder: Path, repeats: int = REPEATS) -> Iterator[Stage]:
    """Each stage alone, then the whole capture; the first run of each does not count."""
    yield from _alone(random, folder, repeats)
    names = iter(range(1_000))
    taken = _median(lambda: _capture(random, folder / f"store-{next(names)}"), None, repeats)
    tokens = random.plan.prompts.tokens
    yield Stage(
        name=f"the whole capture, {random.plan.n_shards} shards",
        tokens_per_second=tokens / taken,
        bytes_per_second=tokens * random.token_bytes / taken,
    )


def _alone(random: Random, folder: Path, repeats: int) -> Iterator[Stage]:
    """Each stage on the first shard."""
    plan, backend, module = random.plan, random.backend, random.backend.model.module
    tokens, raw = random.shard_tokens(), random.shard_tokens() * random.token_bytes
    buffer = ShardBuffer(plan, random.prompts, backend.allocate)
    batches = list(buffer.batches(0))

    def stage(name: str, call: Callable[[], object], size: float | None = None) -> Stage:
        taken = _median(call, module.device, repeats)
        rate = None if size is None else size / taken
        return Stage(name=name, tokens_per_second=tokens / taken, bytes_per_second=rate)

    yield stage("forward pass alone", lambda: _bare(module, batches))
    nothing = [replace(batch, hidden={}) for batch in batches]
    logits = Outputs(sites=(), dtype=plan.stored_dtype)
    yield stage(
        "forward pass, statistics of the logits", lambda: list(backend.capture(nothing, logits))
    )
    yield stage(
        "forward pass, statistics, rows to the host",
        lambda: list(backend.capture(batches, Outputs.of(plan))),
        raw,
    )
    if module.device.type == "cuda":
        yield stage("copy to the host alone", _copy(buffer, batches, module.device), raw)
    step = chunk_rows(plan.sites[0].width, 2)
    chunks = [
        chunk.copy() for site in plan.site_names for chunk in buffer.chunks(site, min(step, tokens))
    ]
    yield stage(f"encoding alone, {usable_cores()} cores", lambda: compress_all(chunks), raw)
    packed = [compress(chunk) for chunk in chunks]
    names = iter(range(1_000))
    yield stage(
        "disk alone",
        lambda: write_files(packed, folder / f"files-{next(names)}"),
        sum(map(len, packed)),
    )


def _median(call: Callable[[], object], device: torch.device | None, repeats: int) -> float:
    def run() -> None:
        call()
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)

    run()
    return statistics.median(seconds(run) for _ in range(repeats))


@torch.inference_mode()
def _bare(module: Any, batches: Sequence[Batch]) -> None:
    """The trunk, without the unembedding: its logits would be tokens x V."""
    for batch in batches:
        for one in passes(batch, shares=False, budget=1):  # one: no prompt is a branch
            module.base_model(**forward_inputs(torch.from_numpy(one.ids).to(module.device)))


def _copy(
    buffer: ShardBuffer, batches: Sequence[Batch], device: torch.device
) -> Callable[[], None]:
    """As many bytes as the batches have, from the card into the memory of the shard."""
    targets = [
        torch.from_numpy(rows.view(np.int16)) for batch in batches for rows in batch.hidden.values()
    ]
    sources = {target.shape: torch.zeros_like(target, device=device) for target in targets}

    def run() -> None:
        for target in targets:
            target.copy_(sources[target.shape], non_blocking=True)

    return run


def _capture(random: Random, root: Path) -> None:
    writer = RunWriter(create_store(root).path, random.plan, random.prompts)
    capture_run(random.plan, random.prompts, writer, random.backend)


def table(shape: Shape, found: Sequence[Stage]) -> Iterator[str]:
    """Markdown, and which stage is the slowest."""
    yield f"**{shape.name}**, random weights\n"
    yield "| stage | tokens/s | GB/s |\n|---|---|---|"
    for one in found:
        size = "" if one.bytes_per_second is None else f"{one.bytes_per_second / 1e9:.2f}"
        yield f"| {one.name} | {one.tokens_per_second:,.0f} | {size} |"
    least = slowest(found)
    share = found[-1].tokens_per_second / least.tokens_per_second
    yield f"\nSlowest stage: {least.name}. The whole capture runs at {share:.0%} of its rate.\n"


def measure(
    shape: Shape, device: str, *, shard_bytes: int, shards: int = SHARDS, repeats: int = REPEATS
) -> list[Stage]:
    """The stages of one shape, each alone, and the whole capture last."""
    sites = shape.blocks + 2
    tokens = shards * (shard_bytes // (2 * shape.width * sites))
    random = random_backend(shape, device, tokens, shard_bytes)
    with scratch() as folder:
        return list(stages(random, folder, repeats))


def report(card: str, shapes: Sequence[Shape], device: str, folder: Path, **size: int) -> Path:
    """Measure `shapes`, print their tables and write them into `folder`; the path of the file."""
    measured = {}
    for shape in shapes:
        measured[shape.name] = measure(shape, device, **size)
        print("\n".join(table(shape, measured[shape.name])), flush=True)
        torch.cuda.empty_cache()
    return card_results.write(folder, card, usable_cores(), measured)


def main() -> None:
    """Print the tables, and keep them for docs/how-to/many-cards.md."""
    if not torch.cuda.is_available():
        print(
            f"bench-gpu needs a CUDA device: torch {torch.__version__} sees none. Run `make "
            "bench-gpu` on a machine with a card.",
            file=sys.stderr,
        )
        sys.exit(2)
    card = torch.cuda.get_device_name()
    print(f"{card}, {usable_cores()} cores, torch {torch.__version__}\n")
    path = report(card, SHAPES, "cuda", card_results.CARDS, shard_bytes=SHARD_BYTES["cuda"])
    print(f"Written: {path}. Next: make tables, and commit both.")


if __name__ == "__main__":
    main()
