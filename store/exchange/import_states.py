"""Import: hidden states that another project stored become a run, through `lpp.store.sink`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from lpp.store.errors import InputError
from lpp.store.exchange.projects import Convention, project
from lpp.store.format.plan import INTEGERS, SiteDtype, SiteSpec, StoredDtype
from lpp.store.objects.place import Url
from lpp.store.progress import SILENT, Progress
from lpp.store.row_sink import sink
from lpp.store.runs.given import GivenSite
from lpp.store.runs.read import Run
from lpp.store.units import counted


def import_states(
    path: Path,
    source: str,
    store: Url,
    *,
    model: str | None = None,
    layers: Sequence[int] | None = None,
    n_blocks: int | None = None,
    vocabulary: int | None = None,
    repair: bool = False,
    progress: Progress = SILENT,
) -> Run:
    """The run in `store` of what the project `source` stored at `path`; made, or resumed.

    model: its name, where the files do not say. layers: ids of the layers in the order of the
    files, as the project counts them, where the files do not say. n_blocks: blocks of the model;
    the id of the last state may stand at the end of `layers` instead. vocabulary: samples with ids
    beyond it are set aside. repair: verify the run, and take the samples of damaged shards again.

    Raises InputError for what is missing or contradicts the files, and FormatError that names a
    damaged file: the shards before it stay, and the same call resumes.
    """
    of = project(source)
    foreign = of.opened().read(path)
    name = model or foreign.model
    if not name:
        raise InputError(f"{path}: no file says which model it was. Name it with --model.")
    if foreign.sites is None:
        sites, blocks = sites_of(of, len(foreign.states), layers, n_blocks)
    else:
        sites, blocks = foreign.sites, n_blocks or foreign.n_blocks
    named = dict(zip(sites, foreign.states, strict=True))
    floats = [(width, dtype) for width, dtype in foreign.states if dtype not in INTEGERS]
    dtype = cast("StoredDtype", floats[0][1] if floats else "float32")
    rows = sink(
        store,
        model={
            "id": name,
            "n_blocks": blocks,
            "hidden_size": max((width for width, _ in floats), default=0),
            "logits_width": vocabulary or foreign.vocabulary,
        },
        sites=_specs(named, dtype, blocks),
        prompts=foreign.samples(),
        dtype=dtype,
        collector=of.name,
        versions={"file": foreign.digest} if foreign.digest else None,
        corpus=path.resolve().name,
        statistics=bool(foreign.sample(0).statistics),
        repair=repair,
    )
    if foreign.left_out:
        progress.warn(
            f"{counted(foreign.left_out, 'prompt has', 'prompts have')} no states in {path} and "
            "will not be in the run."
        )
    progress.expect(rows.run.plan.prompts.count)
    with rows:
        for prompt in rows.missing():
            sample = foreign.sample(prompt.number)
            rows.put(prompt, dict(zip(sites, sample.states, strict=True)), sample.statistics)
            progress.advance()
    return Run(rows.run.path)


def sites_of(
    of: Convention, n_states: int, layers: Sequence[int] | None, n_blocks: int | None
) -> tuple[tuple[str, ...], int]:
    """Our sites of the states of a sample, in their order, and the blocks of the model. InputError
    for layers that do not fit.
    """
    ids = list(layers or ())
    if not of.ends_at_norm:
        if ids != sorted({*ids}) or len(ids) != n_states or not n_blocks:
            raise InputError(
                f"{n_states} layers are stored for each token. Give their ids in ascending order, "
                f"and the blocks of the model: --layers {_joined([2, 15, 27])} --blocks 30."
            )
        return tuple(of.site(layer, n_blocks) for layer in ids), n_blocks
    if len(ids) == n_states:
        last_id = ids.pop()
        if n_blocks not in (None, last_id):
            raise InputError(f"the last layer is {last_id}, and --blocks {n_blocks}.")
        n_blocks = last_id
    if len(ids) != n_states - 1:
        named = f"--layers names {len(ids)}" if ids else "no file says which"
        raise InputError(
            f"{n_states - 1} layers and the last state are stored for each token, and "
            f"{named}. Give their ids as {of.name} counts them, such as: "
            f"--layers {_joined([2, 15, 27][: n_states - 1])} --blocks 30."
        )
    if not n_blocks:
        raise InputError("no file says how many blocks the model has. Give them: --blocks 30.")
    sites = tuple(of.site(layer, n_blocks) for layer in (*ids, n_blocks))
    if len({*ids}) < len(ids):
        raise InputError(f"--layers {_joined(ids)}: a layer is there twice.")
    return sites, n_blocks


def _specs(
    named: Mapping[str, tuple[int, SiteDtype]], dtype: StoredDtype, blocks: int
) -> dict[str, GivenSite]:
    """The sites in order of depth. Names that are not ours stay in their order, as those of another
    program.
    """
    depths = {site: _depth(site, blocks) for site in named}
    if not blocks or -1 in depths.values():
        return dict(named)
    specs: dict[str, GivenSite] = {}
    for site in sorted(named, key=depths.__getitem__):
        width, own = named[site]
        specs[site] = SiteSpec(
            name=site,
            convention="post_norm" if site == "final" else "residual",
            width=width,
            dtype=None if own == dtype else own,
        )
    return specs


def _depth(site: str, blocks: int) -> int:
    """The place of one of our sites in order of depth; -1 for another name."""
    ends = {"embed": 0, "final": blocks + 1}
    depth = re.fullmatch(r"block\.([1-9][0-9]{0,8})", site)
    found = int(depth[1]) if depth else ends.get(site, -1)
    return found if depth is None or found <= blocks else -1


def _joined(ids: Sequence[int]) -> str:
    return ",".join(map(str, ids))
