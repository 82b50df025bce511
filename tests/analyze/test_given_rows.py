"""Runs whose rows another program collected: sites of any name, integers, no statistics."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from lpp.analyze import build_database, diff, scan_entropy, scan_spectra
from lpp.analyze.cli.command import main as analyze
from lpp.capture.cli.command import main as capture
from lpp.sql import connect
from lpp.store import open_store, sink
from lpp.store.format.plan import SiteDtype

SITES: dict[str, int | tuple[int, SiteDtype]] = {
    "router.0": (2, "uint8"),
    "layers.9": 6,
    "blocks.3.attn.hook_z": 8,
    "a": 6,
    "b": 6,
}
FLOATS = [name for name in SITES if name != "router.0"]
NO_STATISTICS = "no statistics of logits: they were not captured"
"""Written at hand: users see it."""


@dataclass(frozen=True)
class Given:
    """A store of two runs of the same prompts, the second of which has noise at `layers.9`."""

    root: Path
    ids: tuple[str, str]
    rows: dict[str, np.ndarray]
    """Rows of the first run by site."""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    root, draw = tmp_path_factory.mktemp("given") / "store", np.random.default_rng(0)
    prompts = [{"input_ids": draw.integers(0, 50, 12).tolist(), "id": k} for k in range(20)]
    rows = {name: draw.normal(size=(240, 8 if "hook" in name else 6)) for name in FLOATS}
    values: dict[str, np.ndarray] = {name: array.astype(np.float32) for name, array in rows.items()}
    values["router.0"] = draw.integers(0, 8, (240, 2))
    ids = []
    for model in ("first", "second"):
        noise = np.float32(0.1) * values["a"] if model == "second" else 0
        of_run = values | {"layers.9": values["layers.9"] + noise}
        with sink(
            root, model=model, sites=SITES, prompts=prompts, collector="c", shard_bytes=9000
        ) as rows_sink:
            for prompt in rows_sink.missing():
                span = slice(12 * prompt.number, 12 * prompt.number + 12)
                rows_sink.put(prompt, {name: of_run[name][span] for name in SITES})
        ids.append(rows_sink.run.id)
    build_database(root)
    return Given(root, (ids[0], ids[1]), values)


def participation_ratio(rows: np.ndarray) -> float:
    covariance = np.cov(rows.astype(np.float64).T)
    return float(np.trace(covariance) ** 2 / (covariance**2).sum())


@pytest.mark.slow
def test_spectra_are_those_of_the_rows_in_the_order_given(given: Given) -> None:
    frame = scan_spectra(given.root).filter(run=given.ids[0], prefix=12).collect()
    assert frame["site"].to_list() == FLOATS
    assert frame["depth"].to_list() == [2, 3, 4, 5]  # router.0 is the first site
    expected = [participation_ratio(given.rows[name]) for name in FLOATS]
    np.testing.assert_allclose(frame["participation_ratio"].to_numpy(), expected, rtol=1e-9)
    entropy = scan_entropy(given.root).collect()
    assert entropy["entropy"].is_null().all()
    assert len(entropy) == 20


def test_the_deepest_site_stands_for_a_run(given: Given) -> None:
    with connect(given.root) as database:
        rows = database.sql("SELECT DISTINCT site, entropy_floor FROM profiles").fetchall()
        blocks = database.sql("SELECT DISTINCT n_blocks FROM runs").fetchall()
    assert (rows, blocks) == ([("b", None)], [(5,)])


def test_drift_of_rows_without_predictions(given: Given) -> None:
    found = diff(given.root, *given.ids)
    assert [(site.site, site.depth) for site in found.sites] == [
        *zip(FLOATS, (2, 3, 4, 5), strict=True)
    ]
    moved = {site.site: site["relative_distance"].value for site in found.sites}
    noise = np.linalg.norm(0.1 * given.rows["a"], axis=1)
    length = np.linalg.norm(given.rows["layers.9"], axis=1)
    assert moved.pop("layers.9") == pytest.approx((noise / length).mean(), rel=1e-3)
    assert set(moved.values()) == {0.0}
    assert all(not summary.n_tokens for summary in found.predictions.values())
    assert not found.is_nothing
    assert NO_STATISTICS in str(found.no_logits)


def test_a_router_is_what_capture_says_it_is(tmp_path: Path) -> None:
    """Rows of another program are rows, whatever it names their site."""
    draw, ids = np.random.default_rng(1), []
    rows = draw.normal(size=(20, 6)).astype(np.float32)
    for model in ("first", "second"):
        with sink(
            tmp_path, model=model, sites={"router.3": 6}, prompts=[{"input_ids": [*range(20)]}]
        ) as into:
            (prompt,) = into.missing()
            into.put(prompt, {"router.3": rows * np.float32(1 + 0.1 * (model == "second"))})
        ids.append(into.run.id)
    (site,) = diff(tmp_path, ids[0], ids[1]).sites
    assert site.relative_distance.value == pytest.approx(0.1, rel=1e-3)
    assert site.sqnr.value == pytest.approx(20, rel=1e-3)
    words = ("diff", tmp_path, *ids, "--strict", "--fail-if")
    assert run(analyze, *words, "sqnr.router.3 < 21").exit_code == 1
    assert run(analyze, *words, "expert_change > 0").exit_code == 2


def run(command: click.Command, *words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["profile"], [NO_STATISTICS, "router.0 holds integers, which have no spectrum"]),
        (["profile", "--metrics", "*"], [NO_STATISTICS]),
        (["layers"], ["router.0 holds integers"]),
        (["cka"], ["The least similar sites are"]),
        (["diff", "first", "second"], ["no predictions to compare", "layers.9", NO_STATISTICS]),
        (["diff", "first", "second", "--fail-if", "cka.blocks.3.attn.hook_z < 0.9"], ["PASS"]),
        (["verify"], ["2 runs, 10 sites, every byte as committed"]),
    ],
    ids=lambda value: "-".join(value[:1]) if isinstance(value, list) else "",
)
def test_commands_say_what_is_not_there(given: Given, words: list[str], says: list[str]) -> None:
    result = run(analyze, words[0], given.root, *words[1:])
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    assert [text for text in says if text not in output] == []


def test_integers_have_no_spectrum(given: Given) -> None:
    result = run(analyze, "profile", given.root, "--sites", "router.0")
    assert result.exit_code == 2


@pytest.mark.slow
def test_report_and_status(given: Given, tmp_path: Path) -> None:
    result = run(analyze, "report", given.root, "-o", tmp_path / "report.html")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "blocks.3.attn.hook_z" in page
    assert "--model first" not in page  # no command makes these runs
    assert "20/20" in run(capture, "status", given.root).output


@pytest.mark.slow
def test_rows_of_another_program_are_not_repaired(given: Given, tmp_path: Path) -> None:
    root = Path(shutil.copytree(given.root, tmp_path / "store"))
    shard = open_store(root).runs[given.ids[0]].shards[1]
    Path(str(shard.objects.place / "tokens.arrow")).write_bytes(b"")
    result = run(capture, "repair", root)
    assert result.exit_code == 1
    assert "not repaired" in result.output
    shutil.rmtree(Path(str(shard.directory.place)))
    output = " ".join(run(analyze, "layers", root).output.split())
    assert "Repeat the call of lpp.store.sink: it resumes" in output
