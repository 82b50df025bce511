"""A run with all sites of a model of six blocks, and the same states as tests write them."""

from typing import Any, Final

import numpy as np

from lpp.store import Run, sink
from lpp.store.format.plan import SiteSpec, StoredDtype
from lpp.store.objects.place import Url

N_BLOCKS, WIDTH, VOCABULARY = 6, 8, 50
SITES: Final = ("embed", *(f"block.{k}" for k in range(1, N_BLOCKS + 1)), "final")
LENGTHS: Final = (5, 12, 1, 7, 30, 3)


def ids_of(prompt: int) -> list[int]:
    """Token ids; the last is no 0, which is a padding elsewhere."""
    return [(7 * prompt + t) % 49 + 1 for t in range(LENGTHS[prompt])]


def mask_of(prompt: int) -> list[bool]:
    return [t % 3 > 0 for t in range(LENGTHS[prompt])]


def states_of(prompt: int, site: str) -> np.ndarray:
    """(n, d) bits of bfloat16, other ones at each site."""
    draw = np.random.default_rng([prompt, SITES.index(site)])
    values = draw.standard_normal((LENGTHS[prompt], WIDTH)).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def write_run(
    store: Url,
    sites: tuple[str, ...] = SITES,
    dtype: StoredDtype = "bfloat16",
    aside: tuple[int, ...] = (),
    **model: Any,
) -> Run:
    """The run, in several shards. aside: prompts without rows."""
    specs = {
        site: SiteSpec(
            name=site, convention="post_norm" if site == "final" else "residual", width=WIDTH
        )
        for site in sites
    }
    prompts = [{"input_ids": ids_of(k), "loss_mask": mask_of(k)} for k in range(len(LENGTHS))]
    info = {"id": "lab/tiny", "n_blocks": N_BLOCKS, "hidden_size": WIDTH} | model
    info |= {"logits_width": VOCABULARY, "architecture": "LlamaForCausalLM"}
    with sink(
        store, model=info, sites=specs, prompts=prompts, dtype=dtype, shard_bytes=2000
    ) as rows:
        for prompt in rows.missing():
            states = {site: states_of(prompt.number, site) for site in sites}
            if dtype == "float32":
                states = {
                    k: (v.astype(np.uint32) << 16).view(np.float32) for k, v in states.items()
                }
            if prompt.number in aside:
                rows.set_aside(prompt, "no rows")
            else:
                rows.put(prompt, states)
    return Run(rows.run.path)
