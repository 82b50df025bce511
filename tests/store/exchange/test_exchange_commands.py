"""`lpp-analyze export --to` and `lpp-capture import`."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from exchanged import LENGTHS, write_run
from on_disk import on_disk
from stored import object_path

from lpp.analyze.cli.command import main as analyze
from lpp.capture.cli.command import main as capture
from lpp.store import Run, open_store


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("run") / "store")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)


def store_of(run: Run) -> Path:
    return on_disk(run.path).parents[1]


def command(main: click.Command, *words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_there_and_back(run: Run, tmp_path: Path) -> None:
    out, store = tmp_path / "cache", tmp_path / "s"
    words = ("--to", "speculators", "--sites", "block.2,block.5", "-o", out)
    done = command(analyze, "export", store_of(run), *words)
    assert done.exit_code == 0, done.output
    said = f"{out}: {len(LENGTHS)} prompts\n2 is block.2; 5 is block.5; the last state is block.6\n"
    assert done.stdout == said
    back = ("--from", "speculators", "--store", store, "--model", "m", "--layers", "2,5,6")
    done = command(capture, "import", out, *back)
    assert done.exit_code == 0, done.output
    (imported,) = open_store(store).runs.values()
    assert done.stdout == (
        f"{imported.id}: {len(LENGTHS)} prompts, 1 shard\nSites: block.2, block.5, block.6\n"
    )
    assert command(capture, "import", out, *back).exit_code == 0  # it resumes
    file = object_path(on_disk(imported.path) / "shards" / "00000", "hidden.zarr/block.6/c/0/0")
    file.write_bytes(b"altered")
    assert command(analyze, "verify", store).exit_code == 1
    assert command(capture, "import", out, *back, "--repair").exit_code == 0
    assert command(analyze, "verify", store).exit_code == 0
    fewer = command(capture, "import", out, *back, "--vocabulary", "17")
    assert "prompts are set aside, such as prompts[1]: id 17 at position 9" in fewer.stderr
    assert "Warning" not in fewer.stderr
    again = command(analyze, "export", store, imported.id, "--to", "parquet", "-o", tmp_path / "p")
    assert again.stdout.endswith("block.2, block.5, block.6\n")
    alone = ("--to", "speculators", "--only-prompts", "-o", tmp_path / "d")
    assert command(analyze, "export", store_of(run), *alone).exit_code == 0
    assert not (tmp_path / "d" / "hidden_states").exists()


@pytest.mark.parametrize(
    ("main", "words", "says"),
    [
        (analyze, ["export", "STORE", "-o", "x"], "--targets topk or sampled, or --to PROJECT"),
        (analyze, ["export", "STORE", "--to", "parquet", "--targets", "topk", "-o", "x"], "say"),
        (analyze, ["export", "STORE", "--to", "specforge", "-o", "x"], "Invalid value for '--to'"),
        (capture, ["import", "nowhere", "--from", "parquet", "--store", "s"], "Name the folder"),
        (capture, ["import", ".", "--from", "x", "--store", "s"], "Invalid value for '--from'"),
        (
            capture,
            ["import", ".", "--from", "parquet", "--store", "s", "--layers", "a"],
            "not a list of whole numbers",
        ),
    ],
)
@pytest.mark.usefixtures("here")
def test_mistakes_end_with_code_2(
    run: Run, main: click.Command, words: list[str], says: str, tmp_path: Path
) -> None:
    done = command(main, *(store_of(run) if word == "STORE" else word for word in words))
    assert done.exit_code == 2
    assert says in done.output
    assert [*tmp_path.iterdir()] == []
