"""The conventions of each project: what export, import, their help and their documents follow."""

from collections.abc import Mapping
from typing import Final

from lpp.store.errors import ErrorKind, NotFoundError
from lpp.store.exchange.convention import Convention

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
    )
}


def project(name: str) -> Convention:
    """The convention of that name. NotFoundError lists them."""
    if name not in PROJECTS:
        raise NotFoundError(
            f"no project {name!r}; there are {', '.join(PROJECTS)}.", kind=ErrorKind.NOT_FOUND
        )
    return PROJECTS[name]


def conventions_rows() -> list[tuple[str, str, str, str]]:
    """Rows of the table of conventions: name, files, what a layer id means, which the last state
    is.
    """
    return [(of.name, f"{of.project}: {of.layout}", *_states(of)) for of in PROJECTS.values()]


def _states(of: Convention) -> tuple[str, str]:
    if not of.counts_layers:
        return "named as here", "–"
    return "id i is `block.i`, 0 is `embed`", "before the final norm, `block.B`"
