"""Experts that routers choose: the load of each, and which tokens change theirs from run to run."""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from click.testing import CliRunner, Result
from every_chart import panels, rows

from lpp.analyze import DiffSettings, LayersSettings, diff, expert_load_chart, scan_drift_sites
from lpp.analyze.cli.command import main as analyze
from lpp.analyze.drift.pages.drift_page_tables import ends
from lpp.analyze.drift.sites import SiteDrift
from lpp.analyze.studies.layers import layers
from lpp.sql import connect
from lpp.store import open_store, sink
from lpp.store.format.plan import SiteSpec

LENGTHS = (12, 7, 20, 20, 3, 15, 20, 9, 11, 20, 20, 5, 17)
BLOCKS = (1, 2, 3)
Ids = npt.NDArray[Any]


@dataclass(frozen=True)
class Mixture:
    """A run of a mixture of experts, whose routers chose at random."""

    root: Path
    run: str
    ids: dict[int, list[Ids]]
    """(T, k) ids of each prompt, by block."""


def choices(seed: int, k: int, n_experts: int) -> dict[int, list[Ids]]:
    """Random experts of each token, some of them far more often than others."""
    draw = np.random.default_rng(seed)
    favour = np.linspace(0, 2, n_experts - 1)  # nobody chooses the last one

    def of_prompt(length: int) -> Ids:
        return np.argsort(-(favour + draw.gumbel(size=(length, n_experts - 1))))[:, :k]

    return {block: [of_prompt(length) for length in LENGTHS] for block in BLOCKS}


def write(
    root: Path,
    model: str,
    ids: dict[int, list[Ids]],
    *,
    dtype: Literal["uint8", "uint16"] = "uint8",
    rows: bool = True,
    seed: int = 0,
    aside: Sequence[int] = (),
) -> Mixture:
    """A run of these choices in the store at `root`; rows: beside hidden states of every block."""
    draw = np.random.default_rng(seed)
    k = ids[1][0].shape[1]
    sites, values = {}, {}
    for block in BLOCKS:
        router = f"router.{block}"
        sites[router] = SiteSpec(name=router, convention="router", width=k, dtype=dtype)
        values[router] = ids[block]
        weight = f"{router}.weight"
        sites[weight] = SiteSpec(name=weight, convention="router", width=k, dtype="bfloat16")
        values[weight] = [np.full(x.shape, 0x3F00, np.uint16) for x in ids[block]]
        if rows:
            name = "final" if block == BLOCKS[-1] else f"block.{block}"
            norm: Literal["post_norm", "residual"] = "post_norm" if name == "final" else "residual"
            sites[name] = SiteSpec(name=name, convention=norm, width=6)
            values[name] = [draw.normal(size=(n, 6)).astype(np.float32) for n in LENGTHS]
    tokens = np.random.default_rng(5)
    prompts = [
        {"input_ids": tokens.integers(0, 50, n).tolist(), "document": f"d{i // 3}"}
        for i, n in enumerate(LENGTHS)
    ]
    info = {"id": model, "n_blocks": len(BLOCKS), "hidden_size": 6}
    with sink(root, model=info, sites=sites, prompts=prompts, shard_bytes=1200) as into:
        for prompt in into.missing():
            if prompt.number in aside:
                into.set_aside(prompt, "lost")
            else:
                into.put(prompt, {name: of[prompt.number] for name, of in values.items()})
    run = open_store(root).runs[into.run.id]
    assert len(run.shards) > 2
    return Mixture(root, run.id, ids)


def kept(ids: Sequence[Ids], first: int = 0, end: int = 99, without: Sequence[int] = ()) -> Ids:
    """The choices of some tokens."""
    return np.concatenate([x[first:end] for i, x in enumerate(ids) if i not in without])


def groups(n: int) -> list[list[int]]:
    """Ten groups of neighbouring prompts."""
    edges = [n * g // 10 for g in range(11)]
    return [[*range(*pair)] for pair in itertools.pairwise(edges) if pair[0] < pair[1]]


def error(parts: Sequence[float]) -> float:
    mean = sum(parts) / len(parts)
    return math.sqrt((len(parts) - 1) / len(parts) * sum((x - mean) ** 2 for x in parts))


def balance(ids: Ids, n_experts: int) -> dict[str, float]:
    """Numbers of a load, one choice after another."""
    counts = [0] * n_experts
    for expert in ids.ravel().tolist():
        counts[expert] += 1
    shares = [count / ids.size for count in counts]
    mean = 1 / n_experts
    variance = sum((share - mean) ** 2 for share in shares) / n_experts
    return {
        "load_imbalance": math.sqrt(variance) / mean,
    }


def run(*words: object) -> Result:
    return CliRunner().invoke(analyze, [str(word) for word in words])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("k", "n_experts", "dtype"), [(1, 5, "uint8"), (8, 30, "uint8"), (2, 400, "uint16")]
)
def test_loads_are_those_of_counting(
    tmp_path: Path, k: int, n_experts: int, dtype: Literal["uint8", "uint16"]
) -> None:
    made = write(tmp_path, "m", choices(0, k, n_experts), dtype=dtype)
    largest = max(int(x.max()) for of in made.ids.values() for x in of)
    settings = LayersSettings(skip_first=[0, 2], contexts=[9, 20], prompts=[4, 13])
    found = layers(tmp_path, settings).expert_load_frame()
    assert len(found) == 3 * 8
    assert found["site"].unique(maintain_order=True).to_list() == [f"router.{b}" for b in BLOCKS]
    for row in found.to_dicts():
        of = made.ids[row["depth"]][: row["n_prompts"]]
        tokens = {"first": row["first_position"], "end": row["context"]}
        whole = kept(of, **tokens)
        counts = np.bincount(whole.ravel(), minlength=row["n_experts"])
        assert row["n_tokens"] == len(whole)
        assert row["loads"] == pytest.approx((counts / counts.sum()).tolist())
        assert row["n_unused"] == sum(count == 0 for count in counts)
        parts = [
            balance(kept(of, **tokens, without=group), row["n_experts"])
            for group in groups(row["n_prompts"])
        ]
        assert row["largest_load"] == max(counts) / whole.size
        for name, value in balance(whole, row["n_experts"]).items():
            assert row[name] == pytest.approx(value, rel=1e-12), name
            spread = error([part[name] for part in parts])
            assert row[f"{name}_stderr"] == pytest.approx(spread, rel=1e-9, abs=1e-15), name
            assert row[f"{name}_ci_low"] <= row[name] <= row[f"{name}_ci_high"]
    whole_run = found.filter(context=20, n_prompts=13, first_position=0)
    assert {*whole_run["n_experts"]} == {largest + 1}


@pytest.mark.slow
def test_equal_loads_and_a_single_expert(tmp_path: Path) -> None:
    ids = {block: [np.arange(4)[None].repeat(n, axis=0) for n in LENGTHS] for block in BLOCKS}
    write(tmp_path / "even", "even", ids)
    for row in layers(tmp_path / "even").expert_load_frame().to_dicts():
        assert row["load_imbalance"] == 0
        assert (row["largest_load"], row["n_unused"]) == (0.25, 0)
    one = {block: [np.zeros((n, 1), np.int64) for n in LENGTHS] for block in BLOCKS}
    write(tmp_path / "one", "one", one)
    for row in layers(tmp_path / "one").expert_load_frame().to_dicts():
        assert (row["load_imbalance"], row["largest_load"], row["loads"]) == (0, 1, [1])


def changed(ids: dict[int, list[Ids]], block: int, seed: int = 3) -> dict[int, list[Ids]]:
    """The same choices, but for one expert of some tokens from `block` on; elsewhere their order
    alone changes.
    """
    draw = np.random.default_rng(seed)
    other = {b: [x[:, ::-1].copy() for x in of] for b, of in ids.items()}
    for b in BLOCKS:
        for x in other[b] if b >= block else ():
            x[draw.random(len(x)) < 0.2, 0] = 49
    return other


def slow(a: Sequence[Ids], b: Sequence[Ids], first: int, without: Sequence[int] = ()) -> float:
    pairs = zip(kept(a, first, without=without), kept(b, first, without=without), strict=True)
    moved = [{*x.tolist()} != {*y.tolist()} for x, y in pairs]
    return sum(moved) / len(moved)


def routers(sites: Sequence[SiteDrift]) -> dict[int, SiteDrift]:
    return {site.depth: site for site in sites if site.site.startswith("router.")}


@pytest.mark.slow
@pytest.mark.parametrize(("k", "dtype"), [(1, "uint8"), (8, "uint16")])
@pytest.mark.parametrize("first", [0, 2])
def test_changes_are_those_of_sets(
    tmp_path: Path, k: int, dtype: Literal["uint8", "uint16"], first: int
) -> None:
    a = write(tmp_path, "a", choices(0, k, 30))
    b = write(tmp_path, "b", changed(a.ids, 2), dtype=dtype, seed=1)
    found = diff(tmp_path, a.run, b.run, DiffSettings(skip_first=first))
    assert [site.site for site in found.sites] == [
        *("router.1", "block.1", "router.2", "block.2", "router.3", "final")
    ]
    for block, site in routers(found.sites).items():
        value = slow(a.ids[block], b.ids[block], first)
        parts = [slow(a.ids[block], b.ids[block], first, group) for group in groups(13)]
        assert (value == 0) == (block == 1)
        assert [*site.numbers] == ["expert_change"]
        assert site.expert_change.value == pytest.approx(value, rel=1e-12)
        assert site.expert_change.stderr == pytest.approx(error(parts), rel=1e-9)
    assert all(site.cka.value is not None for site in found.sites[1::2])
    again = diff(tmp_path, a.run, b.run, DiffSettings(skip_first=first))  # kept numbers
    assert again.sites == found.sites
    lazy = scan_drift_sites(tmp_path, a.run, b.run, first_position=first)
    rows = lazy.select("site", "expert_change").collect()
    assert dict(rows.iter_rows()) == {s.site: s.expert_change.value for s in found.sites}


@pytest.mark.slow
def test_errors_are_over_clusters(tmp_path: Path) -> None:
    a = write(tmp_path, "a", choices(0, 2, 30))
    b = write(tmp_path, "b", changed(a.ids, 2))
    found = diff(tmp_path, a.run, b.run, DiffSettings(cluster="document", sites=["router.*"]))
    clusters = [[*range(start, min(start + 3, 13))] for start in range(0, 13, 3)]
    parts = [slow(a.ids[2], b.ids[2], 0, group) for group in clusters]
    assert routers(found.sites)[2].expert_change.stderr == pytest.approx(error(parts), rel=1e-9)


@pytest.mark.slow
def test_prompts_that_were_set_aside_take_no_part(tmp_path: Path) -> None:
    a = write(tmp_path, "a", choices(0, 2, 30), aside=[3])
    b = write(tmp_path, "b", changed(a.ids, 2), aside=[7])
    for site in diff(tmp_path, a.run, b.run, DiffSettings(sites=["router.*"])).sites:
        expected = slow(a.ids[site.depth], b.ids[site.depth], 0, [3, 7])
        assert site.expert_change.value == pytest.approx(expected, rel=1e-12)
        assert site.n_tokens == sum(LENGTHS) - LENGTHS[3] - LENGTHS[7]
    for row in layers(tmp_path, LayersSettings(runs=[a.run])).expert_load_frame().to_dicts():
        ids = kept(a.ids[row["depth"]], without=[3])
        assert row["n_tokens"] == len(ids)
        counts = np.bincount(ids.ravel(), minlength=row["n_experts"])
        assert row["loads"] == pytest.approx((counts / ids.size).tolist())


@pytest.mark.slow
def test_a_run_with_itself_is_exactly_equal(tmp_path: Path) -> None:
    a = write(tmp_path, "a", choices(0, 4, 30))
    same = write(tmp_path / "again", "a", a.ids)
    for other in (a.run, f"{same.root}::{same.run}"):
        found = diff(tmp_path, a.run, other)
        assert found.is_nothing
        assert {s.expert_change[:4] for s in routers(found.sites).values()} == {(0.0, 0, 0, 0)}
    turned = {b: [x[:, ::-1] for x in of] for b, of in a.ids.items()}
    assert diff(tmp_path, a.run, write(tmp_path, "turned", turned).run).is_nothing


@pytest.mark.slow
def test_sets_of_another_size_are_not_compared(tmp_path: Path) -> None:
    a = write(tmp_path, "a", choices(0, 4, 30))
    b = write(tmp_path, "b", {block: [x[:, :3] for x in of] for block, of in a.ids.items()})
    found = diff(tmp_path, a.run, b.run)
    assert {s.expert_change.value for s in routers(found.sites).values()} == {None}
    assert "router.1 has 4 columns in run" in " ".join(found.notes)
    done = run("diff", tmp_path, a.run, b.run, "--fail-if", "expert_change.router.1 > 0")
    assert (done.exit_code, "not decided" in done.output) == (1, True)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Mixture, Mixture]:
    """Two runs that differ from the router of block 2 on."""
    root = tmp_path_factory.mktemp("mixtures") / "store"
    a = write(root, "base", choices(0, 4, 30))
    return a, write(root, "tuned", changed(a.ids, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("condition", "code", "says"),
    [
        ("expert_change.router.1 > 0", 0, "not met"),
        ("expert_change.router.3 > 0.01", 1, "FAIL"),
        ("expert_change > 0.01", 1, "FAIL"),
        ("cka < 0.99", 0, "not met"),
        ("effective_rank > 1", 0, "not met"),
        ("rankme.block.1 > 1", 0, "not met"),
        ("cka.router.1 < 0.99", 2, "router.1 is not compared; there is block.1, block.2, final"),
        ("expert_change.block.1 > 0", 2, "is not compared; there is router.1, router.2, router.3"),
        ("expert_change > 1", 2, "can never be met"),
    ],
)
def test_a_gate_names_a_router(
    two: tuple[Mixture, Mixture], condition: str, code: int, says: str
) -> None:
    a, b = two
    done = run("diff", a.root, a.run, b.run, "--fail-if", condition)
    assert (done.exit_code, says in done.output.replace("\n", " ")) == (code, True), done.output


def test_without_routers_a_gate_on_them_is_refused(two: tuple[Mixture, Mixture]) -> None:
    a, b = two
    words = ("diff", a.root, a.run, b.run, "--sites", "final")
    done = run(*words, "--fail-if", "expert_change > 0")
    assert done.exit_code == 2
    assert "no site is compared that has it" in done.stderr
    assert "expert" not in run(*words, "--all").stdout


@pytest.mark.slow
def test_the_page_says_where_experts_change(two: tuple[Mixture, Mixture]) -> None:
    a, b = two
    share = slow(a.ids[2], b.ids[2], 0)
    text = run("diff", a.root, a.run, b.run).stdout
    (line,) = (line.split() for line in text.splitlines() if "router.2" in line)
    assert float(line[4]) == pytest.approx(share, rel=1e-3)  # the other numbers are of rows
    several = pl.DataFrame({"site": ["embed", "router.1", "router.2", "router.3", "final"]})
    several = several.with_columns(
        relative_distance=0.0, expert_change=pl.Series([None, 0, 1, 1, None])
    )
    assert ends(several)["site"].to_list() == ["router.2", "final"]
    with connect(a.root) as database:
        rows = database.sql("SELECT site, expert_change FROM drift_sites ORDER BY depth").fetchall()
        numbers = "SELECT count(*) FROM numbers WHERE number = 'expert_change' AND value > 0"
        assert database.sql(numbers).fetchall() == [(2,)]
    assert dict(rows)["router.2"] == share
    assert dict(rows)["block.2"] is None
    several = json.loads(run("diff", a.root, "--against", a.run, "--format", "json").stdout)
    assert {row["expert_change"] for row in several["tables"]["drift_sites"]} > {None, 0.0, share}


@pytest.mark.slow
def test_layers_show_the_load(two: tuple[Mixture, Mixture]) -> None:
    a, _ = two
    done = run("layers", a.root, a.run)
    assert done.exit_code == 0, done.output
    assert "Load by expert" in done.stdout
    assert "integers" not in done.stderr
    tables = json.loads(run("layers", a.root, a.run, "--format", "json").stdout)["tables"]
    assert [row["site"] for row in tables["layers"]] == ["block.1", "block.2", "final"]
    with connect(a.root) as database:
        table = database.sql("FROM expert_load ORDER BY depth").pl()
        most = database.sql(
            "SELECT site, max(load) FROM (SELECT site, unnest(loads) AS load FROM expert_load) "
            "GROUP BY site"
        ).fetchall()
    assert table["loads"].to_list() == [row["loads"] for row in tables["expert_load"]]
    assert dict(most) == dict(table.select("site", "largest_load").iter_rows())


def test_the_chart_is_a_map_of_routers_and_experts(two: tuple[Mixture, Mixture]) -> None:
    a, _ = two
    loads = layers(a.root).expert_load_frame()
    drawn = panels(expert_load_chart(loads))
    assert len(drawn) == 2
    cells = rows(drawn[0], "rect")
    n_experts = loads["n_experts"][0]
    assert len(cells) == 3 * n_experts
    row = loads.row(0, named=True)
    for cell in cells[:n_experts]:
        load = row["loads"][int(cell["x"])]
        assert cell["value"] == pytest.approx(load, rel=1e-5)
        fill = math.log2(load * n_experts) if load else -9
        assert cell["fill"] == pytest.approx(fill, rel=1e-4)
    nothing = expert_load_chart(loads.head(0)).to_dict()
    assert "lpp-analyze layers STORE" in nothing["description"]


@pytest.mark.slow
def test_runs_of_routers_alone(tmp_path: Path) -> None:
    a = write(tmp_path, "a", choices(0, 2, 30), rows=False)
    b = write(tmp_path, "b", changed(a.ids, 3), rows=False)
    done = run("layers", tmp_path)
    assert done.exit_code == 0, done.output
    assert "Load by expert" in done.stdout
    found = diff(tmp_path, a.run, b.run)
    assert [s.expert_change.value == 0 for s in found.sites] == [True, True, False]
    for words in (("diff", tmp_path, a.run, b.run), ("diff", tmp_path, "--against", a.run)):
        done = run(*words)
        assert done.exit_code == 0, done.output
    done = run("profile", tmp_path)
    assert done.exit_code == 2
    assert "no run holds hidden states, which have spectra." in done.stderr


def test_a_run_without_routers_shows_nothing_of_experts(tmp_path: Path) -> None:
    prompts = [[1, 2, 3], [4, 5, 6]]
    sites = {"block.1": SiteSpec(name="block.1", convention="residual", width=2)}
    info = {"id": "m", "n_blocks": 1}
    with sink(tmp_path, model=info, sites=sites, prompts=prompts) as into:
        for prompt in into.missing():
            into.put(prompt, {"block.1": np.eye(3, 2, dtype=np.float32) + prompt.number})
    done = run("layers", tmp_path, "--all")
    assert done.exit_code == 0, done.output
    assert "expert" not in done.stdout
    assert layers(tmp_path).expert_load_frame().schema["loads"] == pl.List(pl.Float64)
