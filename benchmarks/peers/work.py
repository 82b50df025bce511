"""The work that every side gets: a model's folder, token ids, and which prompts run together.

Reading it takes no library but Python's, so that a side imports only what it measures.
"""

import json
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

FILE: Final = "work.json"


@dataclass(frozen=True, kw_only=True)
class Work:
    """One model and the prompts that it reads."""

    model: str
    """Folder of the model, as `from_pretrained` takes it."""
    corpus: str
    """What `lpp-capture --corpus` takes; the token ids of the prompts come from it."""
    context: int
    """Most tokens of a prompt."""
    prefixes: tuple[int, ...]
    """Prefix lengths of the profile, in tokens."""
    prompts: tuple[tuple[int, ...], ...]
    """Token ids of each prompt."""
    batches: tuple[tuple[int, ...], ...]
    """Numbers of the prompts that run together; those of a batch have equal lengths."""

    def ids(self, batch: tuple[int, ...]) -> list[list[int]]:
        """(B, L) token ids of a batch, without padding."""
        return [list(self.prompts[number]) for number in batch]


def write_work(work: Work, folder: Path) -> Path:
    """Write `work` into `folder`, which is made; return the folder."""
    folder.mkdir(parents=True)
    (folder / FILE).write_text(json.dumps(asdict(work)), "utf-8")
    return folder


def read_work(folder: Path) -> Work:
    """The work in `folder`."""
    found = json.loads((folder / FILE).read_text("utf-8"))
    for name in ("prompts", "batches"):
        found[name] = tuple(tuple(some) for some in found[name])
    return Work(**{**found, "prefixes": tuple(found["prefixes"])})


def make_work(model: Path, corpus: str, prompts: int, *, context: int) -> Work:
    """The prompts and batches of the plan that `lpp-capture run` makes of the same request."""
    from benchmarks.peers.sides.lpp_capture import prepared_plan
    from lpp.capture.plan.batches import shard_batches

    ready = prepared_plan(str(model), corpus, prompts=prompts, context=context)
    plan = ready.plan
    ids = [tuple(map(int, some)) for some in ready.prompts["token_ids"].to_pylist()]
    batches = [
        tuple(same)
        for shard in range(plan.n_shards)
        for batch in shard_batches(plan, ready.prompts, shard)
        for _, same in groupby(batch.prompt_ids, key=lambda prompt: len(ids[prompt]))
    ]
    return Work(
        model=str(model),
        corpus=corpus,
        context=context,
        prefixes=plan.prefixes,
        prompts=tuple(ids),
        batches=tuple(batches),
    )
