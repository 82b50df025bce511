"""Downloads from a hub on loopback: what a library call, a terminal and a notebook show of them."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
from hub_server import HubServer, hub_server
from terminal import on_terminal

from lpp.capture.models.load import load_model
from lpp.capture.models.spec import ModelSpec
from lpp.store.progress import Progress

COMMIT = "d" * 40


@pytest.fixture(scope="module")
def server(tiny_folder: Callable[[str], Path]) -> Iterator[HubServer]:
    """A hub with one model, `someone/tiny`."""
    files = {path.name: path.read_bytes() for path in tiny_folder("llama").iterdir()}
    with hub_server({"models/someone/tiny": {COMMIT: files}}, {"main": COMMIT}) as running:
        yield running


class Notes(Progress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_download_notes_its_bytes_and_prints_nothing(
    server: HubServer,
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    constants = {
        "ENDPOINT": server.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path),
        "DOWNLOAD_CHUNK_SIZE": 1 << 14,
    }
    for name, value in constants.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    first, again = Notes(), Notes()
    spec = ModelSpec(id="someone/tiny")
    loaded = load_model(spec, progress=first)
    assert loaded.info.revision == COMMIT
    size = sum(path.stat().st_size for path in tiny_folder("llama").iterdir())
    done = f"{size / 1000:.3g} kB"
    assert first.notes[-1] == f"download someone/tiny: {done} of {done}"
    assert len(set(first.notes)) > 5
    load_model(spec, progress=again)
    assert again.notes == []
    load_model(spec)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_command_shows_a_download_beside_its_own_bar(server: HubServer, tmp_path: Path) -> None:
    words = ("run", "--model", "someone/tiny", "--corpus", "pydoc", "--context", 8, "--prompts", 1)
    code, received = on_terminal(
        [
            Path(sys.executable).with_name("lpp-capture"),
            *map(str, words),
            "--store",
            tmp_path / "s",
        ],
        server.environment(tmp_path / "cache"),
    )
    text = re.sub(r"\x1b\[[\d;?]*\w", "", received.decode())
    assert code == 0, text
    assert re.search(r"prepare .*1/1 model .*download someone/tiny: (\S+ kB) of \1", text)
    assert "Fetching" not in text
    assert "it/s" not in text
