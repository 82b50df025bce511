"""What each project stores for each token, which of our sites that is, and where its files lie.

Export, import, their help and their documents follow these conventions.
"""

import importlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from lpp.store.errors import ErrorKind, InputError, NotFoundError

if TYPE_CHECKING:
    from lpp.store.exchange.foreign import Files


@dataclass(frozen=True, kw_only=True)
class Convention:
    """One project: how its files lie, and how it counts layers."""

    name: str
    """For `--to` and `--from`."""
    project: str
    """Name and release whose code was read."""
    layout: str
    """Its files, in Markdown."""
    counts_layers: bool
    """Whether layer id i is the output of block i, 0 the input of the first block, and the last
    state is the input of the final norm. Otherwise the layout names our sites.
    """
    files: str
    """Module of this room and name of its `Files`: they need pyarrow, a list of names does not."""
    ends_at_norm: bool = True
    """Whether the last state is always the input of the final norm, where layers are counted."""
    exported: bool = True
    """Whether its files are written, not only read."""

    def opened(self) -> "Files":
        """How its files are read and written."""
        module, _, name = self.files.partition(".")
        found = getattr(importlib.import_module(f"lpp.store.exchange.{module}"), name)
        return cast("Files", found)

    def site(self, layer: int, n_blocks: int) -> str:
        """Our site of a layer id of a model of `n_blocks` blocks. InputError for another id."""
        if not 0 <= layer <= n_blocks:
            raise InputError(
                f"layer {layer} of {self.name}: a model of {n_blocks} blocks has 0 to {n_blocks}. "
                f"Name the layers as {self.name} counts them."
            )
        return f"block.{layer}" if layer else "embed"


PROJECTS: Final[Mapping[str, Convention]] = {
    convention.name: convention
    for convention in (
        Convention(
            name="speculators",
            project="speculators 0.9",
            layout="a data set of `save_to_disk` (`input_ids`, `loss_mask`, `seq_len`) and "
            "`hidden_states/hs_{i}.safetensors` for each row",
            counts_layers=True,
            files="speculators.FILES",
        ),
        Convention(
            name="safetensors",
            project="plain safetensors",
            layout="`part-NNNNN.safetensors`: a row for each token, states by site",
            counts_layers=False,
            files="plain.SAFETENSORS",
        ),
        Convention(
            name="parquet",
            project="Parquet",
            layout="`part-NNNNN.parquet`: the same columns; bfloat16 as float32",
            counts_layers=False,
            files="plain.PARQUET",
        ),
        Convention(
            name="vllm-connector",
            project="vLLM 0.32, ExampleHiddenStatesConnector",
            layout="`{request}.safetensors` for each request: `token_ids`, `hidden_states`",
            counts_layers=True,
            files="speculators.REQUESTS",
            ends_at_norm=False,
            exported=False,
        ),
        Convention(
            name="logprobs",
            project="any engine",
            layout="one JSON object a line, no states: `token_ids`, `logprobs`, `top_logprobs`",
            counts_layers=False,
            files="logprobs.FILES",
            exported=False,
        ),
    )
}

EXPORTED: Final = tuple(name for name, of in PROJECTS.items() if of.exported)
"""Those that `lpp-analyze export` writes."""


def project(name: str, among: Collection[str] = PROJECTS) -> Convention:
    """The convention of that name. NotFoundError lists those that it may be."""
    if name not in among:
        raise NotFoundError(
            f"no project {name!r}; there are {', '.join(among)}.", kind=ErrorKind.NOT_FOUND
        )
    return PROJECTS[name]


def conventions_rows() -> list[tuple[str, str, str, str]]:
    """Rows of the table of conventions: name, files, what a layer id means, which the last state
    is.
    """
    return [(of.name, f"{of.project}: {of.layout}", *_states(of)) for of in PROJECTS.values()]


def _states(of: Convention) -> tuple[str, str]:
    if not of.counts_layers:
        return "–", "–"
    return "id i is `block.i`, 0 is `embed`", "before the final norm, `block.B`"
