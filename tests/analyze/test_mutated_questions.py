"""Any damaged file of a store through every command that reads one."""

import contextlib
import csv
import io
import json
import logging
import random
import re
import shlex
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from flipped_items import TASK, two_runs
from kept_heads import keep_head
from made_runs import MakeRun
from mutations import FILE_ACTS, ODD_VALUE, Snapshot, kind_of, restore, snapshot

from lpp.analyze import add_benchmarks
from lpp.analyze.cli.command import main as analyze
from lpp.capture.cli.command import main as capture
from lpp.capture.corpus.passages import fingerprint_texts
from lpp.sql import TABLES
from lpp.sql.cli.command import main as sql
from lpp.sql.queries.saved import saved_queries
from lpp.store import open_store
from lpp.store.errors import LppError
from lpp.store.format.tables import VOCABULARY_SCHEMA
from lpp.store.shared.vocabularies import add_vocabulary

N: Final = 60
MODELS: Final = ("base", "tuned", "third", "fourth", "fifth")
SAYS_SO: Final = ("altered or cut short", "damaged", "the store does not hold")
"""Words of an answer that says why it is another one; no answer of a whole store has them."""

KEPT: Final = ("analysis", "profiles.")
"""What begins the names of files that a question may write."""


@dataclass(frozen=True)
class Question:
    """A command, and what it reads and may change in the store."""

    words: str
    """Arguments: {s} is the store, {o} a folder of outputs, {n} one of `names`."""
    reads: tuple[str, ...]
    """What begins the names of files that most acts are on."""
    changes: tuple[str, ...] = KEPT
    names: tuple[str, ...] = ("",)
    main: click.Command = analyze


SHARED: Final = ("heads", "matrices", "vocabularies")
DATA: Final = (*KEPT, "benchmarks", *SHARED)
EVALUATED: Final = ("runs/first", "runs/second", *DATA)
PROBED: Final = ("runs/base", "runs/tuned", *KEPT)
TARGETS: Final = ("runs/base", *SHARED)
OPEN: Final = "--with-texts --licence CC0-1.0 --source 'made up' --fields topic"

QUESTIONS: Final[dict[str, Question]] = {
    "profile": Question("profile {s}", ("runs", *KEPT)),
    "layers": Question("layers {s} --skip-first 2", ("runs", *KEPT)),
    "cka": Question("cka {s} --skip-first 2", ("runs", *KEPT)),
    "diff": Question("diff {s} base tuned", (*PROBED, *SHARED)),
    "report": Question("report {s} -o {o}/report.md", (*DATA, "runs")),
    "publish": Question("publish {s} --to {o}/public", (*DATA, "runs")),
    "publish texts": Question("publish {s} base --to {o}/open " + OPEN, ("runs/base", *KEPT)),
    "index": Question("index {s}", ("",), ("index.json",)),
    "status": Question("status {s} --format json", ("runs",), (), main=capture),
    "items": Question("items {s} first --task tiny_task --all", ("runs/first", *DATA)),
    "items against": Question("items {s} second --task tiny_task --against first", EVALUATED),
    "flips": Question("diff {s} first second --all", EVALUATED),
    "probe": Question("probe {s} base --label topic --cluster doc", ("runs/base", *KEPT)),
    "probe against": Question("probe {s} base --label topic --against tuned", PROBED),
    "benchmarks list": Question("benchmarks list {s}", ("benchmarks", "runs"), ()),
    "export states": Question(
        "export {s} base --to {n} -o {o}/rows", ("runs/base",), (), ("parquet", "safetensors")
    ),
    "export targets": Question(
        "export {s} base --targets {n} --k 5 -o {o}/t.parquet", TARGETS, (), ("topk", "sampled")
    ),
    "sql table": Question(
        "{s} 'FROM {n} ORDER BY ALL' --format csv",
        (*DATA, "runs"),
        (),
        (*TABLES, "items", "vocabulary", "token_stats"),
        sql,
    ),
    "sql query": Question(
        "{s} --run {n} --format csv", (*DATA, "runs"), (), (*saved_queries(),), sql
    ),
    "correlate": Question("correlate {s}", ("profiles.duckdb", "benchmarks", "runs")),
    "label": Question(
        "label {s} base --from {s}.csv --fields stars", ("runs/base",), ("runs/base",), main=capture
    ),
}
"""What is asked of a store in which all of it was asked before."""


def build(make_run: MakeRun) -> Path:
    """Five runs of labelled prompts, two evaluations of a task, heads, a vocabulary, scores."""
    carried: dict[str, list[Any]] = {
        "id": [f"p{k}" for k in range(N)],
        "text": [f"text {k}" for k in range(N)],
        "field.topic": ["ab"[k % 2] for k in range(N)],
        "field.doc": [k // 2 for k in range(N)],
    }
    settings: dict[str, Any] = {"context": 6, "sites": ("embed", "block.1", "final")}
    settings |= {"prompt_set": fingerprint_texts(carried["text"])}
    settings |= {"per_shard": 20, "vary_tokens": True, "carried": carried}
    made = [
        make_run((6, 5, 4) * (N // 3), model=f"tiny/{model}", seed=seed, **settings)
        for seed, model in enumerate(MODELS)
    ]
    root = made[0].root
    for one in made:
        keep_head(one.root, one.plan, 5 + MODELS.index(one.plan.model.id.removeprefix("tiny/")))
    two_runs(
        make_run, items=60, right=lambda k: k % 4 != 0, flips=lambda a, b, p, answer: p % 3 == 0
    )
    words = [f"w{k}" for k in range(50)]
    columns = [range(50), [word.encode() for word in words], words]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, VOCABULARY_SCHEMA, strict=True)]
    add_vocabulary(root, "t0", pa.Table.from_arrays(arrays, schema=VOCABULARY_SCHEMA))
    scores = root.with_name("scores.csv")
    lines = [f"tiny/{model},{k * k % 7}" for k, model in enumerate(MODELS, 2)]
    scores.write_text("\n".join(["model,Bench", *lines]))
    add_benchmarks(root, [scores])
    with Path(f"{root}.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "text", "stars"])
        rows.writerows([f"p{k}", f"text {k}", k % 5] for k in range(N))
    return root


@dataclass(frozen=True)
class Said:
    """What came of a command."""

    code: int
    answer: str
    """Standard output, and what the files that it wrote say."""
    beside: str
    """Standard error and log lines."""


class Subject:
    """A store in which everything was asked once, and the answers."""

    def __init__(self, root: Path) -> None:
        self.root, self.out = root, root.with_name("out")
        for words in (
            *(["profile"], ["layers", "--skip-first", "1"], ["diff", "base", "tuned"]),
            *(["items", "--task", TASK, "first"], ["correlate"]),
        ):
            done = CliRunner().invoke(analyze, [words[0], str(root), *words[1:]])
            assert done.exit_code == 0, done.output
        self.answers: dict[tuple[str, str], Said] = {}
        for question in ("probe", "probe against"):
            self.ask(question)
        self.before: Snapshot = snapshot(root)

    def clean(self, question: str, name: str) -> Said:
        """The answer of the store as it is."""
        if (question, name) not in self.answers:
            try:
                said = self.ask(question, name)
            finally:
                restore(self.root, self.before)
            assert said.code == 0, (question, name, said)
            self.answers[question, name] = said
        return self.answers[question, name]

    def ask(self, question: str, name: str = "") -> Said:
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir()
        asked = QUESTIONS[question]
        lines = io.StringIO()
        handler = logging.StreamHandler(lines)
        logging.getLogger("lpp").addHandler(handler)
        try:
            with ending_after(900):  # seconds on a quiet machine
                named = {"s": self.root, "o": self.out, "n": name or asked.names[0]}
                words = [word.format(**named) for word in shlex.split(asked.words)]
                done = CliRunner().invoke(asked.main, words)
        finally:
            logging.getLogger("lpp").removeHandler(handler)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        answer = f"{done.stdout}{written(self.out)}"
        if question == "label":
            answer += stars(self.root)
        return Said(done.exit_code, unclocked(answer), unclocked(done.stderr + lines.getvalue()))

    def mutate(self, question: str, rng: random.Random) -> tuple[str, str]:
        """One act, then a command. What was done and how it ended; fails where that is illegal."""
        asked = QUESTIONS[question]
        name = rng.choice(asked.names)
        clean = self.clean(question, name)
        start = asked.reads if rng.random() < 0.8 else ("",)
        files = [
            path
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and path.relative_to(self.root).as_posix().startswith(start)
        ]
        kinds = sorted({kind_of(self.root, path) for path in files})
        kind = rng.choice(kinds)
        path = rng.choice([path for path in files if kind_of(self.root, path) == kind])
        odd = path.suffix == ".json" and rng.random() < 0.5
        act = "odd value" if odd else rng.choice(sorted(FILE_ACTS))
        what = f"{question} {name}, {kind}, {act}"
        try:
            (ODD_VALUE if odd else FILE_ACTS[act])(rng, self.root, path)
            mutated = snapshot(self.root)
            if mutated == self.before:
                return what, "nothing changed"
            said = self.ask(question, name)
            after = snapshot(self.root)
        finally:
            restore(self.root, self.before)
        changed = [
            key
            for key in sorted({**mutated, **after})
            if mutated.get(key, ...) != after.get(key, ...) and not key.startswith(asked.changes)
        ]
        text = f"{what}: exit {said.code}\n{difference(clean.answer, said.answer)}\n{said.beside}"
        assert said.code in (0, 1, 2), text
        assert "Traceback" not in said.answer + said.beside, text
        assert "This is a bug" not in said.answer + said.beside, text
        assert not changed, f"{text}\nchanged: {changed}"
        if said.code:
            assert said.code == 2, text
            return what, "exit 2"
        if said.answer == clean.answer:
            return what, "the same" + (", with a line" if said.beside != clean.beside else "")
        told = said.beside != clean.beside or any(
            word in " ".join(said.answer.split()) for word in SAYS_SO
        )
        assert told or question == "index", text  # which lists what is there
        return what, "another answer, and says so"


@contextlib.contextmanager
def ending_after(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the block if it takes longer."""

    def end(*_: object) -> None:
        raise TimeoutError(f"{seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def written(folder: Path) -> str:
    """What the files of a folder say that do not only list others."""
    texts = []
    for path in sorted(folder.rglob("*")):
        key = path.relative_to(folder).as_posix()
        if path.suffix == ".parquet":
            texts.append(f"{key}: {json.dumps(pl.read_parquet(path).to_dicts(), default=str)}")
        elif path.suffix in (".md", ".csv") or path.name == "card.json":
            texts.append(f"{key}: {path.read_text('utf-8')}")
        elif path.is_file() and path.suffix not in (".duckdb", ".html", ".json"):
            texts.append(f"{key}: {path.read_bytes().hex()}")
    return "\n".join(texts)


def stars(root: Path) -> str:
    with contextlib.suppress(LppError, OSError):
        return str(open_store(root).run("base").prompts("field.stars")["field.stars"].to_pylist())
    return ""


def unclocked(text: str) -> str:
    """Without times, rates, lines of progress and checksums of databases."""
    text = re.sub(r'"(now|tokens_per_second|last_commit|bytes)": [^,]*', "", text)
    return re.sub(r"(?m)^.* after .* s: .*$|SHA-256 `[0-9a-f]*`", "", text)


def difference(before: str, after: str) -> str:
    a, b = before.splitlines(), after.splitlines()
    lines = [f"- {line}" for line in a if line not in b] + [
        f"+ {line}" for line in b if line not in a
    ]
    return "\n".join(line[:400] for line in lines[:30])


@pytest.fixture(scope="module")
def subject(make_shared_run: MakeRun) -> Subject:
    return Subject(build(make_shared_run))


def mutated(subject: Subject, question: str, n: int, seed: int) -> Counter[str]:
    acts = (random.Random(f"{question}-{seed}-{number}") for number in range(n))
    return Counter(subject.mutate(question, rng)[1] for rng in acts)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_damage_is_the_same_answer_or_is_said(subject: Subject) -> None:
    for question in QUESTIONS:
        if not question.startswith("publish"):  # which draws a report
            assert mutated(subject, question, 2, seed=1).total() == 2


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("question", QUESTIONS)
def test_three_hundred_acts(subject: Subject, question: str) -> None:
    print(question, *sorted(mutated(subject, question, 300, seed=2).items()))
