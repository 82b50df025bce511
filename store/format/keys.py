"""Names of everything in a store, SPEC.md section 2, and what a document, a name and an object may
be at most, sections 3, 5 and 6.

Format strings live nowhere else. A store may come from a stranger: everything that it declares is
compared with these bounds before it is believed. Imports nothing, so that `lpp-sql` can find files
without loading the readers.
"""

from typing import Final

FORMAT_NAME: Final = "lpp-store"
"""Value of `format` in the root document."""

ROOT_VERSION: Final = 1
"""The version of the root document, that is, of where runs are found."""

FORMAT_VERSION: Final = 5
"""The newest version of runs, shards and scores, which this release reads and writes."""

PLAIN_VERSION: Final = 3
"""The version that is written for everything that needs no newer one."""

ROOT_KEY: Final = "lpp.json"
"""The document that makes a directory a store."""

RUNS_KEY: Final = "runs"
"""Directory of the runs."""

PLAN_KEY: Final = "plan.json"
"""The frozen plan of a run."""

PROMPTS_KEY: Final = "prompts.arrow"
"""What was fed to the model, one row per prompt."""

SHARDS_KEY: Final = "shards"
"""Directory of a run's shards."""

TOKENS_KEY: Final = "tokens.arrow"
"""One row per token of a shard."""

HIDDEN_KEY: Final = "hidden.zarr"
"""Zarr group of a shard: one array per site."""

MOMENTS: Final = ("moments.arrow", "moments.zarr/")
"""How keys of moments begin, which releases up to 0.2.0 wrote into shards and no reader uses."""

QUARANTINE_KEY: Final = "quarantine.arrow"
"""What was set aside, and why: texts of the corpus in a run's directory, prompts in a shard's."""

COMMIT_KEY: Final = "COMMIT.json"
"""Record that makes a run or a shard exist: written last, lists every other object."""

BENCHMARKS_KEY: Final = "benchmarks"
"""Directory of benchmark scores: one directory for each source."""

SCORES_KEY: Final = "scores.arrow"
"""One row per score of a source."""

ORIGINAL_KEY: Final = "original"
"""Directory of the files that a source's scores were read from."""

HEADS_KEY: Final = "heads"
"""Directory of heads: how a model makes logits of `final`, one directory for each model."""

MATRICES_KEY: Final = "matrices"
"""Directory of the matrices that heads multiply by: one directory for each distinct content."""

MATRIX_KEY: Final = "matrix.zarr"
"""Zarr group of a matrix: the arrays `weight` and, where there is one, `bias`."""

VOCABULARIES_KEY: Final = "vocabularies"
"""Directory of vocabularies: one directory for each tokenizer."""

VOCABULARY_KEY: Final = "vocabulary.arrow"
"""One row per token of a tokenizer."""

CONTINUATIONS_KEY: Final = "continuations"
"""Directory of what models wrote after texts: one directory for each block of prompts."""

WRITTEN_KEY: Final = "written.arrow"
"""What a model wrote after the prompts of a block, one row per prompt."""

ANALYSIS_KEY: Final = "analysis"
"""Directory of cached results: safe to delete at any time."""

REQUESTS_KEY: Final = "requests"
"""Directory of notes on which request became which run: safe to delete at any time."""

DATABASE_KEY: Final = "profiles.duckdb"
"""The profile tables, replaced whole."""

INDEX_KEY: Final = "index.json"
"""Listing of the store for readers over HTTP: a cache, made again after each change."""

LISTED: Final = (
    *(ROOT_KEY, RUNS_KEY, BENCHMARKS_KEY, CONTINUATIONS_KEY, HEADS_KEY, MATRICES_KEY),
    *(VOCABULARIES_KEY, ANALYSIS_KEY, DATABASE_KEY),
)
"""What the index lists of the root directory, with everything below."""


def shard_key(index: int) -> str:
    """Name of shard `index` inside `runs/<run_id>/shards/`.

    >>> shard_key(7)
    '00007'
    """
    return f"{index:05d}"


MAX_KEY_BYTES: Final = 1024
"""Bytes of a key with all its parts."""

MAX_PART_BYTES: Final = 255
"""Bytes of one part of a key: what common file systems hold."""

MAX_DOCUMENT_BYTES: Final = 64 << 20
"""Bytes of a document. A plan of a million shards takes 10 MB."""

MAX_ROOT_BYTES: Final = 64 << 10
"""Bytes of `lpp.json`, and of other documents of a few words."""

ADVICE: Final = "`lpp-analyze verify <store>` lists every such object."


def key_problem(key: str) -> str | None:
    r"""Why `key` may not name an object below a directory; None when it may.

    >>> key_problem("hidden.zarr/block.1/c/0/0")
    >>> [key_problem(key) for key in ("../x", "/etc/passwd", "a//b", "a\\b")]
    ["has a part '..'", "has a part ''", "has a part ''", 'has a character that no name may have']
    """
    if len(key.encode(errors="replace")) > MAX_KEY_BYTES:
        return f"is longer than {MAX_KEY_BYTES} bytes"
    if "\\" in key or not key.isprintable():
        return "has a character that no name may have"
    for part in key.split("/"):
        if not part or part.startswith("."):
            return f"has a part {part!r}"
        if len(part.encode(errors="replace")) > MAX_PART_BYTES:
            return f"has a part of more than {MAX_PART_BYTES} bytes"
    return None
