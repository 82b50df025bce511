"""What a capture reaches on a GPU, and which stage saturates first: `make bench-gpu`.

Models of random weights, made on the card from their configuration alone: no download, no corpus.
Each stage runs alone, then the whole capture. A stage's rate in tokens a second is what a capture
would reach if nothing else took time, so the slowest stage is the one to make faster. A stage is
repeated until a minute has passed, three times at most.
"""

import shutil
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
from benchmarks.card_results import DEVICE, Stage, slowest
from benchmarks.pairs import seconds
from benchmarks.pipeline_cost import compress_all, write_files
from benchmarks.setting import scratch
from benchmarks.synthetic import prompts_table, synthetic_plan
from lpp.capture.backends.torch_backend import TorchBackend
from lpp.capture.backends.torch_passes import passes
from lpp.capture.cli.doctor import findings
from lpp.capture.engine.capture import capture_run
from lpp.capture.engine.shard_buffer import ShardBuffer
from lpp.capture.models.device import check_device, free_cached, kind_of
from lpp.capture.models.spec import Model
from lpp.capture.models.structure.anatomy import forward_inputs
from lpp.capture.plan.backend import Batch, Outputs
from lpp.capture.plan.batches import shard_batches
from lpp.capture.plan.planning import default_batch_tokens
from lpp.capture.plan.sizes import check_room, free_bytes
from lpp.store import RunWriter, create_store
from lpp.store.arrays.decode_pool import usable_cores
from lpp.store.arrays.layout import chunk_rows
from lpp.store.arrays.planes import compress_planes as compress
from lpp.store.errors import LppError
from lpp.store.format.schedule import shard_boundaries

CONTEXT: Final = 200
SHARDS: Final = 4
REPEATS: Final = 3

SECONDS: Final = 60
"""Once a stage has taken so long, it is not repeated again."""

ROOM: Final = 10 << 30
"""Bytes on disk that a measurement takes at most: four shards, before they are removed."""


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

TINY: Final = Shape(
    name="tiny",
    width=32,
    blocks=2,
    config={
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 300,
    },
)
"""For a trial on a CPU."""


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
    taken = _median(lambda: _capture(random, folder / "store"), None, repeats, folder / "store")
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
        taken = _median(call, module.device, repeats, folder / "files")
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
    if module.device.type != "cpu":
        yield stage("copy to the host alone", _copy(buffer, batches, module.device), raw)
    step = chunk_rows(plan.sites[0].width, 2)
    chunks = [
        chunk.copy() for site in plan.site_names for chunk in buffer.chunks(site, min(step, tokens))
    ]
    yield stage(f"encoding alone, {usable_cores()} cores", lambda: compress_all(chunks), raw)
    packed = [compress(chunk) for chunk in chunks]
    yield stage("disk alone", lambda: write_files(packed, folder / "files"), sum(map(len, packed)))


def _median(
    call: Callable[[], object], device: torch.device | None, repeats: int, written: Path
) -> float:
    """Seconds of a call, after one that does not count. written: a folder that it may make."""

    def run() -> float:
        taken = seconds(call_and_wait)
        shutil.rmtree(written, ignore_errors=True)
        return taken

    def call_and_wait() -> None:
        call()
        if device is not None and device.type != "cpu":
            torch.accelerator.synchronize(device)

    run()
    taken = [run()]
    while len(taken) < repeats and sum(taken) < SECONDS:
        taken.append(run())
    return statistics.median(taken)


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
    shape: Shape,
    device: str,
    folder: Path,
    *,
    shard_bytes: int,
    shards: int = SHARDS,
    repeats: int = REPEATS,
) -> list[Stage]:
    """The stages of one shape, each alone, and the whole capture last. folder: on the disk that is
    measured.
    """
    sites = shape.blocks + 2
    tokens = shards * (shard_bytes // (2 * shape.width * sites))
    random = random_backend(shape, device, tokens, shard_bytes)
    with scratch(folder) as inside:
        return list(stages(random, inside, repeats))


def report(card: str, shapes: Sequence[Shape], device: str, folder: Path, **size: int) -> Path:
    """Measure `shapes`, print their tables and write them into `folder`; the path of the page."""
    disk = Path("build")
    disk.mkdir(exist_ok=True)
    measured: dict[str, list[Stage]] = {}
    lines: list[str] = []
    for shape in shapes:
        try:
            measured[shape.name] = measure(shape, device, disk, **size)
            found = list(table(shape, measured[shape.name]))
        except torch.OutOfMemoryError:
            found = [f"**{shape.name}** does not fit into the memory of this card.\n"]
        print("\n".join(found), flush=True)
        lines += found
        free_cached(device)
    machine = "\n".join(findings(disk / "lpp"))
    page = "\n".join([*lines, "```text", machine, "```"])
    return card_results.write(folder, card, "speed", {"rows": card_results.rows_of(measured)}, page)


def main() -> None:
    """Print the tables, and keep them for docs/how-to/many-cards.md."""
    try:
        check_device(DEVICE)
        kind = kind_of(DEVICE)
        check_room(0 if kind.on_host else ROOM, free_bytes(Path()), Path())
    except LppError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    card, folder = card_results.here(DEVICE)
    print(f"{card}, {usable_cores()} cores, torch {torch.__version__}\n")
    if kind.on_host:  # a trial of this program
        path = report(card, [TINY], DEVICE, folder, shard_bytes=200_000, shards=3, repeats=1)
    else:
        path = report(card, SHAPES, DEVICE, folder, shard_bytes=kind.shard_bytes)
    print(card_results.next_step(path))


if __name__ == "__main__":
    main()
