"""What prompts carry beside their tokens: fields, ids and texts; what is refused."""

import datetime
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from on_disk import on_disk
from stored import object_path

from lpp.capture.cli.command import main
from lpp.capture.corpus.carried import Carried, carried
from lpp.capture.corpus.selection import Selection
from lpp.capture.engine.prepare import choose_passages
from lpp.capture.engine.run_cache import request_key
from lpp.capture.models.spec import ModelSpec
from lpp.capture.plan.request import CaptureRequest, CorpusSpec
from lpp.capture.ray.actor import CaptureActor
from lpp.store import Run, create_store, open_store
from lpp.store.errors import ConflictError, InputError
from lpp.store.format.prompt_values import MAX_FIELD_BYTES
from lpp.store.format.tables import PROMPTS_SCHEMA

ROWS: list[dict[str, Any]] = [
    {"text": "the dog", "id": 7, "label": "animal", "score": 1, "train": True, "n": 3},
    {"text": " ", "id": 8, "label": ["no prompt"], "score": {}, "train": 0, "n": "x"},
    {"text": "a quick brown fox", "id": -9, "label": "é", "score": 0.5, "train": False, "n": 4},
    {"text": "judge my vow", "id": 2**62, "score": None, "train": None, "n": None, "more": "x"},
]
"""Three prompts; the row without a text has values that fit no column."""


def jsonl(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def chosen(path: Path, prompts: int, *, keep_texts: bool = False, **spec: Any) -> Carried:
    """What the first `prompts` texts of a file carry."""
    wanted = CorpusSpec(name=str(path), keep_texts=keep_texts, **spec)
    corpus, passages = choose_passages(wanted, Selection(prompts=prompts, min_bytes=0))
    return carried(corpus, passages, keep_texts=keep_texts)


def refusal(path: Path, prompts: int, *fields: str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        chosen(path, prompts, fields=fields, **options)
    return str(caught.value)


def test_fields_of_jsonl(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ROWS)
    found = chosen(path, 3, fields=("label", "score", "train", "n", "more"), keep_texts=True)
    assert found.table.schema == pa.schema(
        [
            ("id", pa.int64()),
            ("text", pa.string()),
            ("field.label", pa.string()),
            ("field.score", pa.float64()),
            ("field.train", pa.bool_()),
            ("field.n", pa.int64()),
            ("field.more", pa.string()),
        ]
    )
    assert found.table.to_pydict() == {
        "id": [7, -9, 2**62],
        "text": ["the dog", "a quick brown fox", "judge my vow"],
        "field.label": ["animal", "é", None],
        "field.score": [1.0, 0.5, None],
        "field.train": [True, False, None],
        "field.n": [3, 4, None],
        "field.more": [None, None, "x"],
    }
    assert found.lines() == [
        "with id, text, label, score, train, n, more",
        "label is null in 1 of 3 prompts",
        "score is null in 1 of 3 prompts",
        "train is null in 1 of 3 prompts",
        "n is null in 1 of 3 prompts",
        "more is null in 2 of 3 prompts",
    ]


def test_only_chosen_rows_have_to_fit_and_they_are_those_of_their_prompts(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": n if n % 2 else f"{n}"} for n in range(40)]
    path = jsonl(tmp_path / "a.jsonl", rows)
    spec = CorpusSpec(name=str(path), fields=("label",))
    for seed in range(5):
        selection = Selection(prompts=2, min_bytes=0, select="random", seed=seed)
        corpus, passages = choose_passages(spec, selection)
        picked = [rows[passage.source_row]["label"] for passage in passages]
        if type(picked[0]) is type(picked[1]):
            found = carried(corpus, passages, keep_texts=False).table
            assert found["field.label"].to_pylist() == picked
        else:
            with pytest.raises(InputError, match="several types"):
                carried(corpus, passages, keep_texts=False)


def test_fields_of_parquet(tmp_path: Path) -> None:
    moment = datetime.datetime(2024, 5, 6, 7, 8, 9, 10)
    columns = {
        "body": pa.array(["a", "b"]),
        "id": pa.array(["x", "y"]).dictionary_encode(),
        "label": pa.array(["one", None], pa.large_string()),
        "text": pa.array(["another", "field"]),
        "half": pa.array([0.5, float("nan")], pa.float32()),
        "small": pa.array([200, 1], pa.uint8()),
        "day": pa.array([datetime.date(2024, 5, 6), None]),
        "time": pa.array([moment, None], pa.timestamp("us")),
        "kind": pa.array([3, None]).dictionary_encode(),
        "a.b": pa.array([True, False]),
        "nothing": pa.nulls(2),
    }
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path)
    names = tuple(name for name in columns if name not in ("body", "id"))
    table = chosen(path, 2, fields=names, text_field="body").table
    assert str(table.to_pydict()) == str(
        {
            "id": ["x", "y"],
            "field.label": ["one", None],
            "field.text": ["another", "field"],
            "field.half": [0.5, float("nan")],
            "field.small": [200, 1],
            "field.day": ["2024-05-06", None],
            "field.time": ["2024-05-06 07:08:09.000010", None],
            "field.kind": [3, None],
            "field.a.b": [True, False],
            "field.nothing": [None, None],
        }
    )
    assert table.schema.field("field.nothing").type == pa.string()


def test_a_folder_of_files_with_different_fields(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    jsonl(folder / "a.jsonl", [{"text": "one", "label": "x"}])
    pq.write_table(pa.table({"text": ["two"], "other": [1]}), folder / "b.parquet")
    (folder / "c.txt").write_text("three")
    found = chosen(folder, 3, fields=("label", "other"))
    assert found.table["field.label"].to_pylist() == ["x", None, None]
    assert found.table["field.other"].to_pylist() == [None, 1, None]


def test_an_id_comes_along_unless_it_is_none(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": "a", "id": "x"}, {"text": "b"}])
    assert chosen(path, 2).table.to_pydict() == {"id": ["x", None]}
    assert chosen(path, 2).lines() == ["with id"]
    assert chosen(path, 2, text_field="text", fields=("id",)).table.column_names == ["id"]
    for ids, why in (
        (["x", 3], "field 'id' is of several types: a string in "),
        ([0.5, 1.5], "a.jsonl, line 1 is a number with a fraction; `id` is a string or"),
        ([[1], [2]], "a.jsonl, line 1 is a list"),
        ([2**63, 1], "a.jsonl, line 1 is beyond 64 bits"),
    ):
        path = jsonl(path, [{"text": "a", "id": i} for i in ids])
        found = chosen(path, 2)
        assert found.table.column_names == []
        (line,) = found.lines()
        assert why in line
        assert why in refusal(path, 2, "id")
    path = jsonl(path, [{"id": "the text is the id"}])
    assert chosen(path, 1, text_field="id").table.column_names == []
    assert chosen(jsonl(path, [{"text": "a", "id": None}]), 1).lines() == []


@pytest.mark.slow
def test_a_long_label_and_a_long_text(tmp_path: Path) -> None:
    longest = "é" * (MAX_FIELD_BYTES // 2)
    path = jsonl(tmp_path / "a.jsonl", [{"text": "a", "label": longest}])
    assert chosen(path, 1, fields=("label",)).table["field.label"].to_pylist() == [longest]
    long = tmp_path / "long.parquet"
    pq.write_table(pa.table({"text": ["x" * ((16 << 20) + 1)]}), long)
    assert chosen(long, 1).lines() == []
    says = refusal(long, 1, keep_texts=True)
    assert f"--keep-texts: {long}, row 0 has a text of 16 MiB; 16 MiB are the most" in says


def test_what_has_no_fields(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    assert "text files have no fields to choose 'label' from. Leave --fields out" in refusal(
        tmp_path / "a.txt", 1, "label"
    )
    assert "Corpus pydoc has no fields to choose from. Leave --fields out" in refusal(
        Path("pydoc"), 1, "label"
    )
    path = jsonl(tmp_path / "a.jsonl", [{"body": "a"}])
    says = "--fields body: this field is the text itself. Leave it out; --keep-texts keeps"
    assert says in refusal(path, 1, "body", text_field="body")
    assert "--fields text: this field is the text itself" in refusal(path, 1, "text")


# --- the command --------------------------------------------------------------------------


@pytest.fixture
def capture(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Callable[..., Result]:
    """`capture("--fields=label")`: three texts through a tiny model."""
    corpus = jsonl(tmp_path / "texts.jsonl", ROWS)

    def run(*extra: str) -> Result:
        words = ["run", f"--model={tiny_folder('llama')}", f"--corpus={corpus}", "--min-bytes=0"]
        words += ["--prompts=3", "--context=9", "--sites=final", f"--store={tmp_path / 'store'}"]
        return CliRunner().invoke(main, [*words, *extra])

    return run


def the_run(tmp_path: Path) -> Run:
    (run,) = open_store(tmp_path / "store").runs.values()
    return run


def test_a_capture_with_everything(capture: Callable[..., Result], tmp_path: Path) -> None:
    options = ("--fields=label, score", "--keep-texts")
    dry = capture(*options, "--dry-run")
    assert "with id, text, label, score" in dry.stdout
    said = capture(*options)
    assert said.exit_code == 0, said.output
    assert "\n  with id, text, label, score\n  label is null in 1 of 3 prompts\n" in said.stderr
    run = the_run(tmp_path)
    assert run.verify() == []
    table = run.prompts(*run.extra_columns.names)
    assert table.column_names == [
        *PROMPTS_SCHEMA.names,
        *("id", "text", "field.label", "field.score"),
    ]
    assert table["id"].to_pylist() == [7, -9, 2**62]
    assert table["text"].to_pylist() == [ROWS[k]["text"] for k in (0, 2, 3)]
    assert table["source_row"].to_pylist() == [0, 2, 3]
    assert table["field.label"].to_pylist() == ["animal", "é", None]


def test_without_options_only_the_id_and_no_text(
    capture: Callable[..., Result], tmp_path: Path
) -> None:
    assert capture().exit_code == 0
    run = the_run(tmp_path)
    assert run.extra_columns.names == ["id"]
    files = [path for path in on_disk(run.path).rglob("*") if path.is_file()]
    assert b"judge" not in b"".join(path.read_bytes() for path in files)


def test_fields_make_no_other_plan_and_no_other_request(
    capture: Callable[..., Result], tmp_path: Path
) -> None:
    assert capture("--fields=label,n").exit_code == 0
    before = the_run(tmp_path).plan.document
    for options in ((), ("--fields=n",), ("--fields=label,id",)):  # less than there is
        again = capture(*options)
        assert (again.exit_code, "complete already" in again.output) == (0, True), again.output
    assert the_run(tmp_path).plan.document == before
    assert "label" not in str(before)


@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_run_that_lacks_a_field_is_refused_in_one_message(
    capture: Callable[..., Result], tmp_path: Path, noted: bool, more: tuple[str, ...]
) -> None:
    assert capture("--fields=n").exit_code == 0
    if not noted:  # the note that spares loading the model
        for note in (tmp_path / "store" / "requests").iterdir():
            note.unlink()
    said = capture("--fields=label,n", "--keep-texts", *more)
    assert said.exit_code == 2
    assert sum(line.startswith("Error") for line in said.stderr.splitlines()) == 1
    message = " ".join(said.stderr.split())
    assert "To go on with the run, leave out --fields and --keep-texts." in message
    assert the_run(tmp_path).extra_columns.names == ["id", "field.n"]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("label,label", "--fields: 'label': it is given 2 times."),
        ("a\tb", r"--fields: 'a\tb': it holds a character that does not print."),
        ("x" * 201, "it takes 201 bytes, should be 1 to 200."),
        ("labl", "Did you mean --fields label?"),
        ("train,n,text", "--fields text: this field is the text itself"),
    ],
)
def test_bad_names(capture: Callable[..., Result], tmp_path: Path, names: str, says: str) -> None:
    said = capture(f"--fields={names}")
    assert said.exit_code == 2
    assert says in " ".join(said.stderr.split())
    assert not (tmp_path / "store").exists()


def test_a_prompt_without_a_token_takes_its_fields_along(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_folder("gpt2"), model)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    drop = {"type": "Replace", "pattern": {"String": "nothing"}, "content": ""}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer | {"normalizer": drop}))
    rows = [{"text": text, "label": text} for text in ("the dog", "nothing", "the fox")]
    corpus = jsonl(tmp_path / "texts.jsonl", rows)
    words = ["run", f"--model={model}", f"--corpus={corpus}", "--min-bytes=0"]
    words += ["--prompts=3", "--context=9", "--sites=final", f"--store={tmp_path / 'store'}"]
    said = CliRunner().invoke(main, [*words, "--fields=label"])
    assert said.exit_code == 0, said.output
    table = the_run(tmp_path).prompts("field.label")
    assert table["source_row"].to_pylist() == [0, 2]
    assert table["field.label"].to_pylist() == ["the dog", "the fox"]


def test_parts_resume_and_repair_leave_them_alone(
    capture: Callable[..., Result],
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lpp.capture.plan.planning.shard_bytes", lambda *_: 1)  # one for a prompt
    assert capture("--part=0/2", "--fields=label").exit_code == 0
    assert capture("--part=1/2").exit_code == 0  # asks for less
    run = the_run(tmp_path)
    assert run.missing_shards == ()
    tokens = object_path(run.path / "shards" / "00001", "tokens.arrow")
    tokens.write_bytes(tokens.read_bytes()[:-1])
    words = ["repair", str(tmp_path / "store"), f"--model={tiny_folder('llama')}"]
    said = CliRunner().invoke(main, words)
    assert said.exit_code == 0, said.output
    assert the_run(tmp_path).verify() == []
    assert the_run(tmp_path).prompts("field.label")["field.label"].to_pylist() == [
        *("animal", "é", None)
    ]


def test_a_worker_of_ray_writes_them_and_refuses_a_run_without(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """What runs on each card of a cluster, in this process."""
    root = create_store(tmp_path / "store").path
    request = CaptureRequest(
        model=ModelSpec(id=str(tiny_folder("llama"))),
        corpus=CorpusSpec(name=str(jsonl(tmp_path / "a.jsonl", ROWS)), fields=("label",)),
        selection=Selection(prompts=3, min_bytes=0),
        context=9,
    )
    more = replace(request, corpus=replace(request.corpus, fields=("label", "n")))
    first, second = (CaptureActor(root, asked, "worker", 1) for asked in (request, more))
    loaded = first.load()
    *beside, short = loaded.carried
    assert beside == ["with id, label", "label is null in 1 of 3 prompts"]
    assert short.startswith("1 of 3 texts have fewer than 9 tokens")
    first.open(loaded.plan.hash)
    first.close()
    assert the_run(tmp_path).extra_columns.names == ["id", "field.label"]
    assert second.load().plan.hash == loaded.plan.hash
    with pytest.raises(ConflictError, match=r"its prompts carry no field\.n\. "):
        second.open(loaded.plan.hash)
    second.close()


def test_the_key_of_a_request_is_that_of_a_plan(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ROWS)
    keys = {
        request_key(
            CaptureRequest(
                model=ModelSpec(id=str(tmp_path)),
                corpus=CorpusSpec(name=str(path), fields=fields, keep_texts=texts),
                selection=Selection(prompts=1),
            )
        )
        for fields, texts in (((), False), (("label",), False), (("n",), True))
    }
    assert len(keys) == 1
    assert None not in keys
