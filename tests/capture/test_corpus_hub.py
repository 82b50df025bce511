"""Corpora from the hub: the real clients against a hub's protocol on loopback.

The clients read HF_ENDPOINT when imported, so each case runs in a process of its own, with a
cache of its own. The server knows the pinned commits under their real names and file layouts,
and one moved branch; the texts are made here.
"""

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import HubServer, hub_server

from lpp.capture.corpus.datasets import (
    HUB_DATASETS,
    raise_if_disk_full,
    wikitext_articles,
)
from lpp.capture.corpus.passages import Passage, fingerprint_texts
from lpp.store.errors import ErrorKind, MachineError

pytest.importorskip("datasets")

ALPACA = HUB_DATASETS["alpaca"]
MOVED = "b" * 40
"""The commit that `main` of alpaca stands at: not the pinned one."""
SPOILT = "c" * 40
"""A commit of alpaca whose data is cut short."""


# --- rules, on rows ----------------------------------------------------------------------


WIKITEXT_ROWS = [
    "",
    " = Robert Boulter = \n",
    "",
    " Robert Boulter is an English actor . \n",
    " = = Career = = \n",
    "",
    " In 2006 , Boulter starred ; 1 = 1 . \n",
    " = = = 2000 – 2005 = = = \n",
    "",
    " = Du Fu = \n",
    " = = Life = = \n",
    " Du Fu was a poet . \n",
]


def test_wikitext_articles_are_paragraphs_without_headings() -> None:
    assert list(wikitext_articles([(row,) for row in WIKITEXT_ROWS])) == [
        Passage(3, "Robert Boulter is an English actor .\n\nIn 2006 , Boulter starred ; 1 = 1 ."),
        Passage(11, "Du Fu was a poet ."),
    ]
    assert list(wikitext_articles([])) == []


def test_every_dataset_is_pinned_to_a_commit() -> None:
    for known in HUB_DATASETS.values():
        assert re.fullmatch("[0-9a-f]{40}", known.revision)


# --- a hub on loopback -------------------------------------------------------------------


def parquet(columns: dict[str, list[Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return bytes(sink.getvalue())


def card(config: str, files: dict[str, str]) -> bytes:
    lines = [f"  - split: {split}\n    path: {path}\n" for split, path in files.items()]
    return f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{''.join(lines)}---\n".encode()


def alpaca_rows(count: int) -> bytes:
    return parquet(
        {
            "instruction": [f"Instruction {k}." for k in range(count)],
            "input": ["" if k % 2 else f"Input {k}." for k in range(count)],
            "output": [f"Output {k}." for k in range(count)],
            "text": [f"Below is an instruction ... {k}" for k in range(count)],
            "score": list(range(count)),
        }
    )


def dolly_lines() -> bytes:
    row = {"instruction": "When?", "context": "It was 1999.", "response": "1999", "category": "qa"}
    return (json.dumps(row) + "\n").encode() * 2


HUB: dict[str, dict[str, dict[str, bytes]]] = {
    "datasets/tatsu-lab/alpaca": {
        ALPACA.revision: {
            "README.md": card("default", {"train": "data/train-*"}),
            "data/train-00000-of-00001-a09b74b3ef9c3b56.parquet": alpaca_rows(3),
        },
        MOVED: {
            "README.md": card("default", {"train": "data/train-*"}),
            "data/train-00000-of-00001.parquet": alpaca_rows(5),
        },
        SPOILT: {"README.md": b"", "data/train-0.parquet": alpaca_rows(3)[:-9]},
    },
    "datasets/databricks/databricks-dolly-15k": {
        HUB_DATASETS["dolly"].revision: {
            "README.md": b"---\nlanguage:\n- en\n---\n",
            "databricks-dolly-15k.jsonl": dolly_lines(),
        }
    },
    "datasets/Salesforce/wikitext": {
        HUB_DATASETS["wikitext"].revision: {
            "README.md": card(
                "wikitext-103-raw-v1",
                {
                    "train": "wikitext-103-raw-v1/train-*",
                    "test": "wikitext-103-raw-v1/test-*",
                },
            )[:-4]
            + b"- config_name: wikitext-2-v1\n  data_files:\n  - split: train\n"
            + b"    path: wikitext-2-v1/train-*\n---\n",
            "wikitext-103-raw-v1/train-00000-of-00002.parquet": parquet(
                {"text": WIKITEXT_ROWS[:6]}
            ),
            "wikitext-103-raw-v1/train-00001-of-00002.parquet": parquet(
                {"text": WIKITEXT_ROWS[6:]}
            ),
            "wikitext-103-raw-v1/test-00000-of-00001.parquet": parquet({"text": ["A test ."]}),
            "wikitext-2-v1/train-00000-of-00001.parquet": parquet({"text": ["not wanted"]}),
        }
    },
}
BRANCHES = {"main": MOVED}


class Hub:
    """A running server, and clients of it in processes of their own."""

    def __init__(self, server: HubServer, home: Path) -> None:
        self.server, self.home = server, home
        self.notes: list[str] = []
        """What the last opening reported."""

    def open(self, name: str, *, offline: bool = False, **options: object) -> dict[str, Any]:
        """What `open_corpus` gives or refuses."""
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("HF_")},
            **self.server.environment(self.home),
            "HF_HUB_OFFLINE": str(int(offline)),
        }
        printed = subprocess.run(
            [sys.executable, "-c", OPEN, name, json.dumps(options)],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        answer = dict(json.loads(printed.stdout))
        assert "error" in answer or printed.stderr == "", "a library prints nothing"
        self.notes = answer.pop("notes")
        return answer


OPEN = """
import json, sys
from lpp.capture.corpus.carried import carried
from lpp.capture.corpus.open import open_corpus
from lpp.store.errors import LppError
from lpp.store.progress import Progress
notes, progress = [], Progress()
progress.note = notes.append
try:
    corpus = open_corpus(sys.argv[1], **json.loads(sys.argv[2]), progress=progress)
    found = {
        "name": corpus.name, "revision": corpus.revision, "rule": corpus.rule,
        "fingerprint": corpus.fingerprint,
        "rows": [p.source_row for p in corpus.passages],
        "texts": [p.text for p in corpus.passages],
        "carried": carried(corpus, list(corpus.passages), keep_texts=False).table.to_pydict(),
    }
except LppError as error:
    found = {"error": type(error).__name__, "kind": error.kind, "message": str(error)}
print(json.dumps({**found, "notes": notes, "torch": "torch" in sys.modules}))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    with hub_server(HUB, BRANCHES) as running:
        yield running


@pytest.fixture
def hub(server: HubServer, tmp_path: Path) -> Hub:
    return Hub(server, tmp_path / "cache")


@pytest.fixture
def nobody(tmp_path: Path) -> Hub:
    """Where no hub answers: a loopback port that was free a moment ago."""
    with hub_server({}) as closed:
        pass
    return Hub(closed, tmp_path / "cache")


EXPECTED = [
    "Instruction 0.\n\nInput 0.\n\nOutput 0.",
    "Instruction 1.\n\nOutput 1.",
    "Instruction 2.\n\nInput 2.\n\nOutput 2.",
]


@pytest.mark.slow
def test_alpaca_is_read_at_its_pinned_commit_then_from_the_cache(
    hub: Hub, nobody: Hub, server: HubServer
) -> None:
    found = hub.open("alpaca")
    assert re.fullmatch(r"download tatsu-lab/alpaca: (\d.* kB) of \1", hub.notes[-2])
    assert hub.notes[-1] == "reading alpaca"
    assert found["texts"] == EXPECTED
    assert found["rows"] == [0, 1, 2]
    assert found["revision"] == ALPACA.revision
    assert (found["name"], found["rule"]) == ("alpaca", "instruction, input, output")
    assert found["fingerprint"] == fingerprint_texts(EXPECTED)
    assert not found["torch"]
    assert not any(path.endswith(".py") for path in server.requested)
    # A later revision in the same cache must not stand in for the pinned one.
    assert len(hub.open("alpaca", revision="main")["texts"]) == 5
    for again in (hub.open("alpaca", offline=True), nobody.open("alpaca")):
        assert again == found
    assert nobody.notes == ["reading alpaca"]


@pytest.mark.slow
def test_a_branch_is_resolved_and_its_commit_recorded(hub: Hub) -> None:
    found = hub.open("alpaca", revision="main", text_field="text")
    assert found["revision"] == MOVED
    assert found["texts"] == [f"Below is an instruction ... {k}" for k in range(5)]
    assert found["rule"] == "field text"


@pytest.mark.slow
def test_dolly(hub: Hub) -> None:
    found = hub.open("dolly")
    assert found["texts"] == ["When?\n\nIt was 1999.\n\n1999"] * 2


@pytest.mark.slow
def test_fields_of_hub_data_come_along(hub: Hub) -> None:
    dolly = hub.open("dolly", fields=["category", "context"])
    assert dolly["carried"] == {
        "field.category": ["qa"] * 2,
        "field.context": ["It was 1999."] * 2,
    }
    alpaca = hub.open("alpaca", text_field="output", fields=["score", "text"])
    assert alpaca["carried"] == {
        "field.score": [0, 1, 2],
        "field.text": [f"Below is an instruction ... {k}" for k in range(3)],
    }
    assert hub.open("alpaca")["carried"] == {}
    wrong = hub.open("alpaca", fields=["label"])
    assert (
        "Corpus alpaca: no chosen row has a field 'label'; there are: 'instruction', 'input', "
        "'output', 'text', 'score'."
    ) in wrong["message"]
    text = hub.open("wikitext", fields=["text"])
    assert "--fields text: this field is the text itself" in text["message"]


@pytest.mark.slow
def test_wikitext_downloads_one_configuration(hub: Hub) -> None:
    found = hub.open("wikitext")
    assert found["rows"] == [3, 11]
    assert found["texts"][1] == "Du Fu was a poet ."
    assert not list(hub.home.rglob("wikitext-2-v1"))
    test = hub.open("wikitext", split="test")
    assert (test["name"], test["texts"]) == ("wikitext/test", ["A test ."])


@pytest.mark.slow
def test_what_the_hub_does_not_have(hub: Hub) -> None:
    revision = hub.open("alpaca", revision="nowhere")
    assert (revision["error"], revision["kind"]) == ("InputError", "not_found")
    split = hub.open("alpaca", split="valid")
    assert "Corpus alpaca: no split 'valid'; it has: train." in split["message"]
    field = hub.open("alpaca", text_field="body")
    assert "no column 'body'; it has: instruction, input, output, text, score." in field["message"]
    number = hub.open("alpaca", text_field="score")
    assert "column 'score' holds int64, not text" in number["message"]


@pytest.mark.slow
def test_a_hub_that_nobody_answers_for(nobody: Hub) -> None:
    for offline in (False, True):
        found = nobody.open("dolly", offline=offline)
        assert (found["error"], found["kind"]) == ("MachineError", "not_found")
        assert "cannot fetch databricks/databricks-dolly-15k" in found["message"]
        assert "--corpus texts.jsonl" in found["message"]
        assert "--corpus pydoc" in found["message"]
        assert (
            "`hf download databricks/databricks-dolly-15k --repo-type dataset "
            "--revision bdd27f4d94b9c1f951818a7da7fd7aeea5dbff1a "
            "--include README.md --include '*.jsonl'`."
        ) in found["message"]


@pytest.mark.slow
def test_a_hub_without_the_dataset_and_a_broken_one(hub: Hub, server: HubServer) -> None:
    bare = Hub(replace(server, endpoint=f"{server.endpoint}/bare"), hub.home).open("alpaca")
    assert (bare["error"], bare["kind"]) == ("InputError", "not_found")
    assert "--corpus pydoc" in bare["message"]
    broken = Hub(replace(server, endpoint=f"{server.endpoint}/broken"), hub.home).open("alpaca")
    assert (broken["error"], broken["kind"]) == ("MachineError", "not_found")
    assert "500" in broken["message"]
    assert sum(path.startswith("/broken/") for path in server.requested) == 1  # not asked again


@pytest.mark.slow
def test_data_that_does_not_read(hub: Hub) -> None:
    found = hub.open("alpaca", revision=SPOILT)
    assert (found["error"], found["kind"]) == ("InputError", "corrupt")


def test_a_full_disk_is_found_beneath_other_errors() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = RuntimeError("An error occurred while generating the dataset")
    wrapped.__cause__ = full
    for error in (full, wrapped):
        with pytest.raises(MachineError, match="set HF_HOME to a folder on a larger disk") as e:
            raise_if_disk_full("alpaca", error)
        assert e.value.kind == ErrorKind.NO_SPACE
    raise_if_disk_full("alpaca", RuntimeError("something else"))
