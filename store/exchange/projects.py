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
            first_depth=0,
            last="before",
            needs_layers=False,
            in_place=True,
            files="speculators.FILES",
        ),
        Convention(
            name="deepspec",
            project="DeepSpec, cache version 2",
            layout="`manifest.json`, `samples.idx`, `shard-NNNNN.bin`",
            first_depth=1,
            last="after",
            files="deepspec.FILES",
            dtypes=("bfloat16",),
        ),
        Convention(
            name="automodel",
            project="NeMo AutoModel 0.7, DSpark cache version 1",
            layout="`manifest.json`, `shard-NNNNNN.safetensors`, samples filled up to one length",
            first_depth=1,
            last="after",
            last_layer_normed=True,
            files="automodel.FILES",
        ),
        Convention(
            name="specforge",
            project="SpecForge 0.2, EAGLE-3 and DSpark",
            layout="`rows_{a}-{b}/data_{i}.ckpt`, pickled, perhaps filled up with id 0",
            first_depth=1,
            has_embed=False,
            last="after",
            exports=False,
            files="specforge.FILES",
        ),
        Convention(
            name="safetensors",
            project="plain safetensors",
            layout="`part-NNNNN.safetensors`: a row for each token, states by site",
            first_depth=None,
            last=None,
            files="plain.SAFETENSORS",
        ),
        Convention(
            name="parquet",
            project="Parquet",
            layout="`part-NNNNN.parquet`: the same columns; bfloat16 as float32",
            first_depth=None,
            last=None,
            files="plain.PARQUET",
        ),
    )
}

EXPORTS: Final = tuple(name for name, of in PROJECTS.items() if of.exports)
"""Those that are written."""


def project(name: str) -> Convention:
    """The convention of that name. NotFoundError lists them."""
    if name not in PROJECTS:
        raise NotFoundError(
            f"no project {name!r}; there are {', '.join(PROJECTS)}.", kind=ErrorKind.NOT_FOUND
        )
    return PROJECTS[name]


def conventions_rows() -> list[tuple[str, str, str, str, str]]:
    """Rows of the table of conventions: name, files, what a layer id means, which the last state
    is, and the directions.
    """
    return [
        (of.name, f"{of.project}: {of.layout}", _layers(of), _last(of), _directions(of))
        for of in PROJECTS.values()
    ]


def _layers(of: Convention) -> str:
    if of.first_depth is None:
        return "named as here"
    of_id = "`block.i`" if of.first_depth == 0 else f"`block.(i+{of.first_depth})`"
    text = f"id i is {of_id}"
    if of.has_embed:
        text += f", {-of.first_depth} is `embed`"
    return text + (", that of the last block is `final`" if of.last_layer_normed else "")


def _last(of: Convention) -> str:
    if of.last is None:
        return "–"
    return "before the final norm, `block.B`" if of.last == "before" else "after it, `final`"


def _directions(of: Convention) -> str:
    return "export and import" if of.exports else "import"
