"""`STORE::RUN` of a store whose author lies under checksums that fit: one message, or the numbers
of the rows.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from forged import forge, give_away
from kept_heads import keep_head
from made_runs import Made, MakeRun
from sealed import reseal
from stored import object_path

from lpp.analyze.cli.command import main
from lpp.store.format.documents import canonical_json, document_hash
from lpp.store.format.keys import ANALYSIS_KEY
from lpp.store.format.tables import VOCABULARY_SCHEMA, encode_table
from lpp.store.shared.vocabularies import add_vocabulary

N: Final = 60
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to another user")


@pytest.fixture
def ours(make_run: MakeRun) -> Made:
    return _made(make_run, "base", 0)


@pytest.fixture
def theirs(make_run: MakeRun, tmp_path: Path) -> Made:
    return _made(make_run, "tuned", 1, root=tmp_path / "theirs")


def _made(make_run: MakeRun, model: str, seed: int, **where: Any) -> Made:
    """A run of labelled prompts, with the head and the vocabulary of its model."""
    carried = {"field.topic": ["ab"[k % 2] for k in range(N)]}
    settings: dict[str, Any] = {"context": 6, "sites": ("block.1", "final"), "per_shard": 30}
    made = make_run(
        (6, 5, 4) * (N // 3),
        model=f"tiny/{model}",
        seed=seed,
        carried=carried,
        vary_tokens=True,
        **settings,
        **where,
    )
    keep_head(made.root, made.plan, 5 + seed)
    add_vocabulary(made.root, "t0", vocabulary([f"w{k}" for k in range(50)]))
    return made


def vocabulary(texts: Sequence[str], first: int = 0) -> pa.Table:
    columns = [range(first, first + len(texts)), [text.encode() for text in texts], texts]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, VOCABULARY_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=VOCABULARY_SCHEMA)


def questions(ours: Path, theirs: Path, run: str = "tuned") -> Iterator[list[str]]:
    """Each as CSV: numbers, and no names of stores."""
    second, csv = f"{theirs}::{run}", ("--format", "csv", "--all")
    yield ["diff", str(ours), "base", second, *csv]
    yield ["diff", str(ours), second, "base", *csv]
    yield ["diff", str(ours), "--against", "base", second, *csv]
    yield ["probe", str(ours), "base", "--label", "topic", "--against", second, *csv]


def ask(words: Sequence[str]) -> Result:
    return CliRunner().invoke(main, [*words])


def refused(done: Result, what: object) -> None:
    said = f"{what}: {done.exit_code} {done.output[-600:]} {done.exception!r}"
    assert done.exit_code == 2, said
    assert "This is a bug" not in done.output, said
    assert len(done.output) < 3000, said
    assert "\x1b" not in done.output, said


@as_root
@pytest.mark.slow
def test_forged_numbers_are_computed_again(ours: Made, theirs: Made, tmp_path: Path) -> None:
    expected = [ask(words).stdout for words in questions(ours.root, theirs.root)]
    shutil.rmtree(ours.root / ANALYSIS_KEY)
    assert forge(theirs.root)
    trusted = shutil.copytree(theirs.root, tmp_path / "trusted")  # it gets no numbers of ours
    for root in (theirs.root, trusted):
        give_away(root)
    for words, before in zip(questions(ours.root, theirs.root), expected, strict=True):
        done = ask(words)
        assert done.exit_code == 0, done.output
        assert done.stdout == before, words
    shutil.rmtree(ours.root / ANALYSIS_KEY)
    of_forged = [ask([*words, "--trust-kept"]).stdout for words in questions(ours.root, trusted)]
    assert of_forged != expected


Change = Callable[[dict[str, Any]], None]


def _set(*keys: str | int, value: Any) -> Change:
    def change(document: dict[str, Any]) -> None:
        holder: Any = document
        for key in keys[:-1]:
            holder = holder[key]
        holder[keys[-1]] = value

    return change


LARGE: Final = 1 << 52

PLANS: Final[Mapping[str, Change]] = {
    "a context of 2^52": _set("context", value=LARGE),
    "a context and a prefix of 2^52": lambda plan: plan.update(
        context=LARGE, prefixes=[*plan["prefixes"], LARGE]
    ),
    "2^52 prompts": lambda plan: plan.update(
        prompts={**plan["prompts"], "count": LARGE, "tokens": LARGE}, shards=[0, LARGE]
    ),
    "2^52 tokens": _set("prompts", "tokens", value=LARGE),
    "no tokens": _set("prompts", "tokens", value=-1),
    "2^52 logits": _set("model", "logits_width", value=LARGE),
    "no logits": _set("model", "logits_width", value=-1),
    "2^52 blocks": _set("model", "n_blocks", value=LARGE),
    "-1 blocks": _set("model", "n_blocks", value=-1),
    "no parameters": _set("model", "n_parameters", value=-(1 << 52)),
    "a width of 2^52": _set("sites", 0, "width", value=LARGE),
    "a width of -5": _set("sites", 1, "width", value=-5),
    "a width of 7": _set("sites", 1, "width", value=7),
    "a site outside": _set("sites", 0, "name", value="../../../etc"),
    "a site of escapes": _set("sites", 0, "name", value="\x1b[2J"),
    "a site twice": _set("sites", 0, "name", value="final"),
    "100,000 sites": lambda plan: plan.update(
        sites=[{**plan["sites"][0], "name": f"block.{k}"} for k in range(1, 100_001)]
    ),
    "100,000 prefixes": lambda plan: plan.update(context=100_000, prefixes=[*range(1, 100_001)]),
    "100,000 shards": _set("shards", value=[*range(100_001)]),
    "another dtype": _set("stored_dtype", value="bfloat16"),
    "a dtype that is none": _set("stored_dtype", value="float128"),
    "NaN": _set("corpus", "selection", value={"seed": "NaN", "text": "NaN"}),
    "a tokenizer of 2^52": _set("tokenizer", "size", value=LARGE),
    "a name of 100,000": _set("model", "id", value="x" * 100_000),
    "a name of escapes": _set("model", "id", value="tuned\x1b[2J\u202e"),
    "10,000 deep": _set("corpus", "selection", value={}),
}
"""Plans that a hostile author writes, each with the record and the name of a run that fit."""


def lie(made: Made, change: Change, *, deep: bool = False) -> str:
    """Change the plan of a run; its record and its name follow. Its new id."""
    folder = made.root / "runs" / made.run_id
    path = object_path(folder, "plan.json")
    document = json.loads(path.read_bytes())
    change(document)
    data, digest = canonical_json(document), document_hash(document)
    if deep:
        nested = b'{"a":' * 10_000 + b"1" + b"}" * 10_000
        data = data.replace(b'"selection":{}', b'"selection":' + nested)
    path.write_bytes(data)
    slug = re.sub("[^a-z0-9]+", "-", document["model"]["id"].rpartition("/")[2].lower())
    named = folder.with_name(f"{slug.strip('-')[:48]}-{digest[:8]}")
    folder.rename(named)

    def follow(record: dict[str, Any]) -> None:
        record["plan"] = digest

    reseal(named, follow)
    for shard in sorted((named / "shards").iterdir()):
        reseal(shard, follow)
    return named.name


@pytest.mark.slow
@pytest.mark.parametrize("what", PLANS)
def test_plans_that_lie(ours: Made, theirs: Made, what: str) -> None:
    run = lie(theirs, PLANS[what], deep=what == "10,000 deep")
    for words in questions(ours.root, theirs.root, run):
        done = ask(words)
        if done.exit_code:
            refused(done, (what, words))
        assert "\x1b" not in done.output


def _another_width(theirs: Made) -> None:
    """A head of 7 columns, for rows of 6."""
    shutil.rmtree(theirs.root / "heads")
    shutil.rmtree(theirs.root / "matrices")
    plan = replace(theirs.plan, model=replace(theirs.plan.model, hidden_size=7))
    keep_head(theirs.root, plan, 6)


def _other_vocabulary(table: Callable[[], pa.Table]) -> Callable[[Made], None]:
    def change(theirs: Made) -> None:
        (folder,) = (theirs.root / "vocabularies").iterdir()
        object_path(folder, "vocabulary.arrow").write_bytes(encode_table(table()))
        rows = len(table())
        reseal(folder, lambda record: record.update(rows=rows))

    return change


SHARED: Final[Mapping[str, Callable[[Made], None]]] = {
    "a head of another width": _another_width,
    "no token": _other_vocabulary(lambda: vocabulary([])),
    "one token": _other_vocabulary(lambda: vocabulary(["x"])),
    "negative ids": _other_vocabulary(lambda: vocabulary(["x"] * 50, first=-9)),
    "large ids": _other_vocabulary(lambda: vocabulary(["x"] * 50, first=(1 << 31) - 51)),
    "escapes": _other_vocabulary(lambda: vocabulary(["\x1b[2J</script>"] * 50)),
    "8 MiB a token": _other_vocabulary(lambda: vocabulary(["x" * (8 << 20)] * 50)),
}
"""Heads and vocabularies that do not fit, or harm."""


@pytest.mark.slow
@pytest.mark.parametrize("what", SHARED)
def test_heads_and_vocabularies_that_lie(ours: Made, theirs: Made, what: str) -> None:
    SHARED[what](theirs)
    for words in questions(ours.root, theirs.root):
        for shown in (words, [*words[:-3], "--format", "html"], words[:-3]):
            done = ask(shown)
            if done.exit_code:
                refused(done, (what, shown))
            assert "\x1b" not in done.output
            assert "[2J</script>" not in done.output


@pytest.mark.slow
@pytest.mark.parametrize(
    "place",
    [
        *(
            "lpp.json",
            "runs",
            "runs/*",
            "runs/*/COMMIT.json",
            "runs/*/shards",
            "runs/*/shards/00000",
        ),
        *(
            "heads",
            "heads/*",
            "matrices/*",
            "vocabularies",
            "analysis",
            "analysis/*",
            "profiles.duckdb",
        ),
    ],
)
def test_links_that_lead_outside(ours: Made, theirs: Made, place: str, tmp_path: Path) -> None:
    """Nothing is read through a link, and nothing written."""
    for words in questions(ours.root, theirs.root):
        assert ask(words).exit_code == 0
    outside = tmp_path / "outside"
    for k, path in enumerate(sorted(theirs.root.glob(place))):
        outside.mkdir(exist_ok=True)
        path.rename(outside / str(k))
        path.symlink_to(outside / str(k))
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    for words in questions(ours.root, theirs.root):
        done = ask([*words, "--fresh"] if words[0] == "diff" else words)
        if done.exit_code:
            refused(done, (place, words))
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before
