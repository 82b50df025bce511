"""The example's draft model at another size: from a store, online, by the order of its samples.

SmolLM2 answers questions of 25 kinds about 80 things. The functions are those of the notebook. For
the order, groups of conversations about the same kind of question are mixed, a few at a time, as
speculators reads them from a store (`sample_order`); beside it is a permutation of all. Some CPU
minutes for 100 conversations; the store may hold the conversations already:

    python -m benchmarks.draft_training ./drafts 320 --epochs 3 --seeds 3
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from lpp.capture import capture, demo_model
from lpp.store import Run
from lpp.store.arrays.reader import to_float32
from lpp.store.exchange.sample_order import mixed_batches
from lpp.store.feed import PromptBatch
from lpp.store.feed.chosen import readable_prompts
from lpp.store.format.rows import positions, ranges

NOTEBOOK: Final = Path(__file__).resolve().parents[1] / "examples" / "train_a_draft.ipynb"
ASKS: Final = (
    "What is {}?|Write two sentences about {}.|Why does {} matter?|Name three facts about {}.|"
    "Explain {} to a child.|What do most people get wrong about {}?|How did {} begin?|"
    "Give an example of {}.|What would the world be without {}?|Write a short poem about {}.|"
    "Who first described {}?|How is {} measured?|What is the best book on {}?|"
    "Compare {} with the weather.|Is {} dangerous?|How do I teach {}?|Write a headline about {}.|"
    "What does {} cost?|Where is {} most common?|Tell a joke about {}.|What comes after {}?|"
    "List the steps of {}.|How has {} changed?|What should I ask an expert on {}?|"
    "Summarise {} in one line."
)
THINGS: Final = (
    "gravity|bread|the Nile|a lighthouse|photosynthesis|chess|inflation|the moon|democracy|honey|"
    "volcanoes|jazz|vaccines|the alphabet|glass|sleep|algebra|migration|coffee|magnets|"
    "the printing press|coral reefs|taxes|music|evolution|bicycles|ice|poetry|the internet|bees|"
    "earthquakes|paper|clocks|rice|theatre|electricity|rivers|memory|trade|maps|whales|steel|"
    "language|gardens|radio|deserts|money|painting|rockets|salt|friendship|bridges|tea|statistics|"
    "forests|the heart|sailing|law|cheese|comets|libraries|wheat|dreams|trains|oceans|medicine|"
    "kites|soil|film|tides|castles|sugar|football|lightning|cotton|history|birds|cities|light|"
    "the wheel"
)
GROUP: Final = 8
"""Conversations of a group."""
AT_ONCE: Final = 4
"""Groups that are mixed."""
ORDERS: Final = {
    "permutation": 10**6,
    f"groups, {AT_ONCE} mixed": AT_ONCE,
    "one group at a time": 1,
}


def questions() -> list[tuple[int, str]]:
    """2,000 questions in random order, each with the number of its kind."""
    asks = enumerate(ASKS.split("|"))
    listed = [(kind, ask.format(thing)) for kind, ask in asks for thing in THINGS.split("|")]
    random.Random(0).shuffle(listed)
    return listed


def answered(store: Path, count: int) -> Run:
    """The run of the first `count` conversations."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(demo_model())
    rows = []
    for _, question in questions()[:count]:
        system = {"role": "system", "content": "Be brief."}
        chat = [system, {"role": "user", "content": question}]
        row: Any = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)
        rows.append({"input_ids": row["input_ids"]})
    sites = ["block.2", "block.15", "block.27", "block.30", "final"]
    answers: dict[str, Any] = {"continue_tokens": 48, "temperature": 0.7, "generation_seed": 1}
    kept: dict[str, Any] = {"sites": sites, "logit_positions": "schedule"}
    return capture("demo", rows, store=store, context=48, **answers, **kept)


def of_notebook(run: Run, epochs: int) -> dict[str, Any]:
    """What the notebook defines before it trains, on another run."""
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    for number, source in enumerate(sources[:5]):
        exec(source, names)
        if number == 0:
            names |= {"capture": lambda *_, **__: run, "epochs": epochs}
    return names


def fed_from_memory(run: Run, at_once: int) -> Callable[..., Iterator[PromptBatch]]:
    """In place of the feed's `prompts`, with groups of neighbours of one kind."""
    kinds = np.array([kind for kind, _ in questions()[: run.n_prompts]])
    group_of = np.empty(run.n_prompts, np.int64)
    group_of[np.argsort(kinds, kind="stable")] = np.arange(run.n_prompts) // GROUP
    sites = [site for site in run.sites if site != "block.30"]
    rows = {
        site: np.concatenate([b.values for b in run.blocks(site, dtype="stored")]) for site in sites
    }
    ids = run.prompts()["token_ids"].combine_chunks().flatten().to_numpy().astype(np.int64)

    def prompts(
        _run: Run, _sites: Any, *, where: str, max_tokens: int, seed: int = 0, **_: Any
    ) -> Iterator[PromptBatch]:
        kept = np.flatnonzero(readable_prompts(run, where))
        rng, lengths = np.random.default_rng(seed), run.lengths[kept]
        options: dict[str, Any] = {"at_once": at_once, "lanes": 1, "rng": rng}
        for batch in mixed_batches(group_of[kept], lengths, max_tokens, **options):
            yield packed(kept[batch])

    def packed(chosen: npt.NDArray[np.int64]) -> PromptBatch:
        lengths = run.lengths[chosen]
        at = ranges(run.row_edges[chosen], lengths)
        return PromptBatch(
            prompt_ids=torch.from_numpy(chosen),
            token_ids=torch.from_numpy(ids[at]),
            documents=torch.from_numpy(np.repeat(np.arange(len(chosen)), lengths)),
            positions=torch.from_numpy(positions(lengths)),
            labels={},
            hidden={s: torch.from_numpy(to_float32(v[at])) for s, v in rows.items()},
        )

    return prompts


def measure(run: Run, epochs: int, seeds: int, *, online: int = 1) -> Iterator[dict[str, Any]]:
    """After the last epoch of each training: loss, acceptance, greedy acceptance. online: trainings
    whose verifier runs in each epoch, by seed.
    """
    names = of_notebook(run, epochs)
    feed, ways = names["prompts"], [("store", "stored_states"), ("online", "computed_states")]
    for way, states in ways:
        for seed in range(seeds if way == "store" else online):
            _, tests, seconds = names["train"](names[states], seed)
            yield {"order": way, "seed": seed, **tests[-1], "seconds": sum(seconds) / epochs}
    for order, at_once in ORDERS.items():
        for seed in range(seeds):
            names["prompts"] = fed_from_memory(run, at_once)
            _, tests, _ = names["train"](names["stored_states"], seed)
            yield {"order": order, "seed": seed, **tests[-1], "seconds": None}
    names["prompts"] = feed


def main() -> None:
    """Print a line for each training, then means and standard deviations."""
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("conversations", type=int)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    run = answered(options.store, options.conversations)
    rows = []
    for row in measure(run, options.epochs, options.seeds):
        rows.append(row)
        print(row, flush=True)
    by_order = pl.DataFrame(rows).group_by("order", maintain_order=True)
    values = pl.col("loss", "acceptance", "greedy")
    print(by_order.agg(values.mean(), values.std().name.suffix("_sd"), pl.col("seconds").mean()))


if __name__ == "__main__":
    main()
