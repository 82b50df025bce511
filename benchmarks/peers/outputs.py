"""What the other sides write, as a user of their libraries would, and how it is read back.

A file of safetensors for each batch holds a tensor for each site, (tokens, d) in bfloat16, and the
entropy of each token, (tokens,) in float32 nats.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    from benchmarks.peers.work import Work

ENTROPY: Final = "entropy"
PROFILE: Final = "profile.json"

Floats = npt.NDArray[np.float32]
Profile = Sequence[tuple[float, float, float]]
"""(entropy / ln V, PR / r, ER / r) for each prefix."""


def site_names(blocks: int) -> list[str]:
    """The sites of a model, in order: what enters block 1, each block, what the head reads."""
    return ["embed", *(f"block.{k}" for k in range(1, blocks + 1)), "final"]


def save_batch(
    out: Path, number: int, states: Sequence["torch.Tensor"], logits: "torch.Tensor"
) -> None:
    """Write one batch. states: (B, L, d) of each site, in order; logits: (B, L, V)."""
    import torch
    from safetensors.torch import save_file

    out.mkdir(exist_ok=True)
    names = site_names(len(states) - 2)
    tensors = {
        # cloned: two names of one tensor cannot go into a file
        name: state.flatten(0, 1).to(torch.bfloat16, copy=True).contiguous()
        for name, state in zip(names, states, strict=True)
    }
    tensors[ENTROPY] = torch.cat([entropies(of_prompt) for of_prompt in logits])
    save_file(tensors, out / f"batch-{number:05}.safetensors")


def entropies(logits: "torch.Tensor") -> "torch.Tensor":
    """(L,) entropies in nats of (L, V) logits, in float32.

    A prompt at a time: float32 logits of a whole batch would be four times as large.
    """
    log_p = logits.float().log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def read_batches(out: Path, work: "Work") -> dict[str, Floats]:
    """Every tensor that `save_batch` wrote, float32, (T, ...), prompts in the order of the work."""
    import torch
    from safetensors.torch import load_file

    pieces: dict[str, dict[int, torch.Tensor]] = {}
    for number, batch in enumerate(work.batches):
        for name, values in load_file(out / f"batch-{number:05}.safetensors").items():
            of_prompts = values.float().chunk(len(batch))
            pieces.setdefault(name, {}).update(zip(batch, of_prompts, strict=True))
    return {name: torch.cat([of[k] for k in sorted(of)]).numpy() for name, of in pieces.items()}


def read_store(root: Path) -> dict[str, Floats]:
    """The same of the one run of a store."""
    from lpp.store import open_store

    (run,) = open_store(root).runs.values()
    found = {name: np.concatenate(list(run.hidden(name))) for name in run.sites}
    found[ENTROPY] = run.tokens().to_table(columns=[ENTROPY])[ENTROPY].to_numpy()
    return found


def save_profile(out: Path, profile: Profile) -> None:
    """Write the numbers of a profile."""
    (out / PROFILE).write_text(json.dumps(profile), "utf-8")


def read_profile(out: Path) -> dict[str, npt.NDArray[np.float64]]:
    """Each number of a profile, (prefixes,)."""
    values = np.array(json.loads((out / PROFILE).read_text("utf-8")))
    return dict(zip(("entropy_norm", "pr_norm", "er_norm"), values.T, strict=True))


def bytes_below(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def relative_distances(a: Mapping[str, Floats], b: Mapping[str, Floats]) -> dict[str, float]:
    """The mean over tokens of ||a_t - b_t|| / ||b_t||, for each site.

    By token: in the middle blocks a few tokens are a hundred times as long as all others, and would
    hide them in one norm of all rows.
    """
    return {
        site: float((_lengths(a[site] - b[site]) / _lengths(b[site])).mean())
        for site in b
        if site != ENTROPY
    }


def _lengths(rows: Floats) -> Floats:
    found: Floats = np.linalg.norm(rows, axis=1)
    return found
