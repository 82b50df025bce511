"""From a request to what can run: the prompts, the model in its backend, the plan.

Cheap checks come first: the corpus is read and the prompts are chosen before a model loads.
"""

from dataclasses import dataclass

import pyarrow as pa

from lpp.capture.backends.open import open_backend
from lpp.capture.corpus.open import open_corpus
from lpp.capture.corpus.passages import Corpus, Passage
from lpp.capture.corpus.prompts import token_counter, tokenise
from lpp.capture.corpus.selection import Selection, select
from lpp.capture.engine.continuations import (
    assume_longest,
    continue_prompts,
    kept_continuations,
)
from lpp.capture.models.load import load_tokenizer
from lpp.capture.plan.backend import Backend
from lpp.capture.plan.parts import WHOLE, Part
from lpp.capture.plan.planning import make_plan, site_specs
from lpp.capture.plan.request import CaptureRequest, CorpusSpec
from lpp.store import create_store
from lpp.store.commands.progress import SILENT, Progress
from lpp.store.commands.signals import check_requests
from lpp.store.format.plan import Plan
from lpp.store.objects.place import Url
from lpp.store.store import open_if_any


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A plan with what it needs to run. Close it to give the model's memory back."""

    plan: Plan
    prompts: pa.Table
    """Of the whole plan: `PROMPTS_SCHEMA`, then more columns."""
    backend: Backend
    set_aside: pa.Table
    """Texts of the corpus that became no prompt, `lpp.store.format.quarantine.TEXTS_SCHEMA`."""

    assumed: bool = False
    """Whether the model has not written yet, and the prompts are as long as they can become."""

    def close(self) -> None:
        """Nothing runs on the model any more."""
        self.backend.close()


def prepare(
    request: CaptureRequest,
    *,
    root: Url | None = None,
    writes: bool = True,
    part: Part = WHOLE,
    progress: Progress = SILENT,
    quiet: bool = True,
) -> Prepared:
    """Choose the prompts, load the model, have it continue them, freeze the plan.

    root: the store that takes what the model writes, made where there is none. writes: whether the
    model may write; otherwise, and without a store, each prompt is taken to be as long as it can
    become, where the store has not what follows all of them. part: whose continuations come first.
    progress: told of slow steps. quiet: keep the libraries' own warnings off stderr.

    Raises InputError for what the request gets wrong, MachineError for what the machine lacks.
    """
    corpus, passages = choose_passages(request.corpus, request.selection)
    backend = open_backend(request, progress=progress, quiet=quiet)
    try:
        check_requests()  # vLLM's start drops an interrupt at some moments
        refused = corpus.refused
        prompts = tokenise(passages, backend.model.tokenizer, request.context, refused)
        passages = [passage for passage in passages if passage.source_row not in refused]
        continuation, assumed = None, False
        if request.continuation is not None:
            site_specs(request, backend)  # what the plan would refuse comes before the writing
            continued = None
            if root is not None and writes:
                store = create_store(root).objects
                continued = continue_prompts(
                    store, request, backend, prompts, part=part, progress=progress
                )
            elif root is not None and (found := open_if_any(root)) is not None:
                continued = kept_continuations(found.objects, request, backend, prompts)
            if continued is None:
                assumed, continued = True, assume_longest(request, backend, prompts)
            prompts, continuation = continued.prompts, continued.info
        plan = make_plan(
            request=request,
            corpus=corpus,
            passages=passages,
            backend=backend,
            prompts=prompts,
            continuation=continuation,
        )
    except BaseException:
        backend.close()
        raise
    return Prepared(
        plan=plan,
        prompts=prompts,
        backend=backend,
        set_aside=refused.table(),
        assumed=assumed,
    )


def choose_passages(spec: CorpusSpec, selection: Selection) -> tuple[Corpus, list[Passage]]:
    """The corpus and the texts that the selection takes; no look at the model under test."""
    corpus = open_corpus(
        spec.name, revision=spec.revision, split=spec.split, text_field=spec.text_field
    )
    counter = None
    if selection.count_with is not None:
        counter = token_counter(load_tokenizer(selection.count_with))
    return corpus, select(corpus, selection, counter)
