"""Ours: one capture of every site with all logit statistics, into a store on disk."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.peers.sides import Run
from benchmarks.peers.work import Work
from benchmarks.setting import capture
from lpp.capture.cli.demo import demo_request
from lpp.capture.corpus.selection import Selection
from lpp.capture.engine.prepare import Prepared, prepare
from lpp.capture.plan.request import CorpusSpec


def prepared_plan(
    model: str, corpus: str, *, prompts: int, context: int, **changes: Any
) -> Prepared:
    """The demo's request for another model folder, corpus and number of prompts, loaded.

    changes: further fields of the request.
    """
    request = replace(
        demo_request(Path(model), None),
        corpus=CorpusSpec(name=corpus),
        selection=Selection(prompts=prompts),
        context=context,
        **changes,
    )
    return prepare(request)


def loaded_plan(work: Work, **changes: Any) -> Prepared:
    """The plan of `work`, loaded. ValueError where its token ids are not those of the work."""
    ready = prepared_plan(
        work.model, work.corpus, prompts=len(work.prompts), context=work.context, **changes
    )
    if [tuple(ids) for ids in ready.prompts["token_ids"].to_pylist()] != list(work.prompts):
        raise ValueError(f"{work.corpus}: other token ids than those of the work")
    return ready


def load(work: Work) -> Run:
    """Choose and tokenise the prompts, load the model."""
    ready = loaded_plan(work)

    def run(out: Path) -> None:
        capture(ready, out)

    return run
