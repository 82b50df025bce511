"""Where the numbers come from: plans, versions, fingerprints, checksums."""

import hashlib
import json
import platform
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import polars as pl

from lpp.analyze.pages.page import Origin, RunOrigin
from lpp.analyze.runs.capture_command import capture_command, part, stored_dtype
from lpp.analyze.runs.incomplete import incomplete
from lpp.store import Run, open_store
from lpp.store.errors import FormatError
from lpp.store.format.documents import canonical_json
from lpp.store.format.keys import DATABASE_KEY, SHARDS_KEY
from lpp.store.format.plan import INTEGERS
from lpp.store.objects.locate import objects_at
from lpp.store.objects.place import Place

LIBRARIES: Final = ("lpp-engine", "duckdb", "polars", "numpy", "scipy", "zarr")
"""Libraries that read the store and computed the numbers: their versions are shown."""


def origin(url: str, runs: pl.DataFrame, further_runs: Collection[str] = ()) -> Origin:
    """Provenance of the runs of the database of the store at `url`.

    runs: columns `run`, `plan` (JSON), `shards` and `n_prompts`. further_runs: other
    runs of the database. Raises FormatError(NOT_A_STORE).
    """
    store = open_store(url)
    columns = ("run", "plan", "shards", "n_prompts")
    known = {run: rest for run, *rest in runs.select(columns).iter_rows()} if runs.width else {}
    held = {*known, *further_runs}
    others = [run for run in store.runs if run not in held]
    return Origin(
        database=_sha256(store.path / DATABASE_KEY),
        versions=tuple(_versions()),
        runs=tuple(_run_origin(store.runs, run, *rest) for run, rest in known.items()),
        unprofiled=tuple(
            run for run, plan in store.plans_of(others).items() if plan is None or plan.task is None
        ),
    )


def origin_of(runs: Sequence[Run]) -> Origin:
    """Provenance of some runs, of any stores, without a database."""
    return Origin(
        database=None,
        versions=tuple(_versions()),
        runs=tuple(
            _run_origin({run.id: run}, run.id, canonical_json(run.plan.document).decode())
            for run in runs
        ),
        unprofiled=(),
    )


def _versions() -> Iterator[tuple[str, str]]:
    yield "Python", platform.python_version()
    for name in LIBRARIES:
        try:
            yield name, version(name)
        except PackageNotFoundError:  # a source tree that was not installed
            yield name, "unknown"


def _sha256(path: Place) -> str | None:
    try:
        return hashlib.sha256(objects_at(path.parent).local(path.name).read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


def _run_origin(
    stored: Mapping[str, Run],
    run: str,
    plan: str | None,
    shards: str | None = None,
    n_prompts: int | None = None,
) -> RunOrigin:
    """shards, n_prompts: what the tables have of the run; None: the numbers are of what is stored
    now.
    """
    document = _document(plan)
    checksums: list[tuple[str, str]] = []
    problem: str | None = None
    try:
        if run in stored:
            checksums = list(_checksums(stored[run]))
            problem = (incomplete(stored[run]) or "").removesuffix(".") or None
            if shards not in (None, stored[run].fingerprint):
                problem = (
                    f"its numbers are of {n_prompts} prompts, and shards were captured or repaired "
                    "since. `lpp-analyze profile` computes them again"
                )
        else:
            problem = "the store does not hold this run: its numbers cannot be computed again"
    except FormatError as error:
        problem = str(error).removesuffix(".")
    return RunOrigin(
        run=run,
        facts=tuple(_facts(document)),
        command=capture_command(document),
        plan=json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False),
        checksums=tuple(checksums),
        sites=tuple(
            str(site.get("name"))
            for site in document.get("sites") or ()
            if site.get("convention") != "router" and site.get("dtype") not in INTEGERS
        ),
        problem=problem,
    )


def _document(plan: str | None) -> Mapping[str, Any]:
    """The plan's JSON; an empty one where it is not a document."""
    try:
        document = json.loads(plan or "{}")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _checksums(run: Run) -> Iterator[tuple[str, str]]:
    """The records of the run and its shards; each covers every object of its directory."""
    yield "COMMIT.json", run.commit.self_xxh3_128
    for shard in run.shards:
        yield f"{SHARDS_KEY}/{shard.path.name}/COMMIT.json", shard.digest


def _facts(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    model, corpus = part(document, "model"), part(document, "corpus")
    compute, as_computed = part(document, "compute"), document.get("stored_dtype")
    facts = {
        "model": model.get("id"),
        "weights": model.get("weights"),
        "tokenizer": part(document, "tokenizer").get("fingerprint"),
        "corpus": corpus.get("name"),
        "corpus fingerprint": corpus.get("fingerprint"),
        "texts (prompt set)": corpus.get("prompt_set"),
        "token ids": part(document, "prompts").get("sha256"),
        "prefixes": ", ".join(map(str, document.get("prefixes") or ())),
        "computed in": compute.get("dtype"),
        "stored in": stored_dtype(document, str(as_computed)) or as_computed,
        "device": compute.get("device"),
        "batch": f"{compute.get('batch_tokens')} padded tokens",
    }
    facts |= {f"captured by {k}": v for k, v in part(compute, "versions").items()}
    yield from ((name, str(value)) for name, value in facts.items() if value)
