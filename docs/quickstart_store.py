"""Capture the store that `lpp-analyze quickstart` carries: `make quickstart-store`.

Two runs of SmolLM2-135M, as it is and rounded to 4 bits, on sentences of Python's reference that
have a label and the article they come from; and its answers to 60 items of `pydoc_cloze`. It is
captured like any other store, then packed without the unembedding (39 MB) into one file, which lies
in the repository: the sizes below keep it at 4 MB.
"""

import json
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Final

from lpp.analyze.quickstart import PACKED
from lpp.capture.cli.command import main as lpp_capture
from lpp.capture.cli.demo import capture_rounded
from lpp.capture.corpus.pydoc import articles, sentences
from lpp.capture.corpus.selection import Selection
from lpp.capture.engine.run import capture_into
from lpp.capture.models.gguf import packaged_model
from lpp.capture.models.spec import ModelSpec
from lpp.capture.plan.request import CaptureRequest, CorpusSpec
from lpp.store.format.keys import RUNS_KEY

TOPICS: Final = {
    "statements": "assert assignment break compound continue del global import nonlocal pass raise "
    "return yield",
    "data": "booleans dict floating formatstrings integers lists numbers objects string-methods "
    "strings truth types typesmapping typesmethods typesmodules typesseq",
}
"""The articles of each label."""

SENTENCES: Final = 26
"""Sentences of each label; at most `OF_ARTICLE` of one article."""

OF_ARTICLE: Final = 3
CONTEXT: Final = 12
"""Tokens of a sentence that are captured; shorter ones are left out."""

ITEMS: Final = 60


def labelled_sentences() -> Iterator[dict[str, str]]:
    """Rows of a corpus: text, topic, article; the topics alternate."""
    topic_of = {name: topic for topic, names in TOPICS.items() for name in names.split()}
    texts: dict[str, list[dict[str, str]]] = {topic: [] for topic in TOPICS}
    taken: Counter[str] = Counter()
    for article, text in sentences(articles()):
        topic = topic_of.get(article)
        if topic and len(text) >= 100 and taken[article] < OF_ARTICLE:
            taken[article] += 1
            texts[topic].append({"text": text, "topic": topic, "article": article})
    for rows in zip_longest(*(rows[:SENTENCES] for rows in texts.values())):
        yield from filter(None, rows)


def capture(store: Path, corpus: Path) -> None:
    """Capture everything into `store`; `corpus` is written."""
    corpus.write_text("".join(f"{json.dumps(row)}\n" for row in labelled_sentences()), "utf-8")
    request = CaptureRequest(
        model=ModelSpec(id=str(packaged_model())),
        corpus=CorpusSpec(name=str(corpus), fields=("topic", "article"), keep_texts=True),
        selection=Selection(prompts=2 * SENTENCES, min_bytes=0),
        context=CONTEXT,
        sites=("block.15", "final"),
        stored_dtype={"block.*": "float8_e4m3"},
    )
    capture_into(store, request)
    capture_rounded(store, request)
    options = f"--limit {ITEMS} --sites final --stored-dtype float8_e4m3 --keep-texts".split()
    words = ["eval", "--model", "demo", "--tasks", "pydoc_cloze", *options, "--store", str(store)]
    lpp_capture(words, standalone_mode=False)


def pack(store: Path, packed: Path) -> None:
    """Write the runs of `store` and what they need, heads and results aside, into one file."""
    with tarfile.open(packed, "w:xz") as archive:
        for name in ("lpp.json", RUNS_KEY, "benchmarks", "vocabularies"):
            archive.add(store / name, name)


def make() -> None:
    """Make the file anew."""
    with tempfile.TemporaryDirectory() as folder:
        capture(Path(folder, "store"), Path(folder, "sentences.jsonl"))
        pack(Path(folder, "store"), PACKED)
    print(f"{PACKED}: {PACKED.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    make()
