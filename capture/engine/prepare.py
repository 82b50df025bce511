"""From a request to what can run: the prompts, the model in its backend, the plan.

Cheap checks come first: the corpus is read and the prompts are chosen before a model loads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import pyarrow as pa

from lpp.capture.backends.open import open_backend
from lpp.capture.corpus.carried import carried
from lpp.capture.corpus.open import open_corpus
from lpp.capture.corpus.passages import Corpus, Passage
from lpp.capture.corpus.prompts import token_counter, tokenise
from lpp.capture.corpus.selection import Selection, select
from lpp.capture.models.load import load_tokenizer
from lpp.capture.plan.backend import Backend
from lpp.capture.plan.planning import make_plan
from lpp.capture.plan.request import NOTHING, CaptureRequest, CorpusSpec, InMemory
from lpp.store.commands.progress import SILENT, Progress
from lpp.store.commands.signals import check_requests
from lpp.store.format.plan import Plan


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A plan with what it needs to run. Close it to give the model's memory back."""

    plan: Plan
    prompts: pa.Table
    """Of the whole plan: `PROMPTS_SCHEMA`, then what the prompts carry."""
    backend: Backend
    set_aside: pa.Table
    """Texts of the corpus that became no prompt, `lpp.store.format.quarantine.TEXTS_SCHEMA`."""
    carried: Sequence[str] = ()
    """What the prompts carry, in words, a line each."""

    def close(self) -> None:
        """Nothing runs on the model any more."""
        self.backend.close()


def prepare(
    request: CaptureRequest,
    *,
    given: InMemory = NOTHING,
    progress: Progress = SILENT,
    quiet: bool = True,
) -> Prepared:
    """Choose the prompts, load the model, freeze the plan.

    given: what needs no loading. progress: told of slow steps. quiet: keep the libraries' own
    warnings off stderr.

    Raises InputError for what the request gets wrong, MachineError for what the machine lacks.
    """
    corpus, passages = choose_passages(request.corpus, request.selection, given.corpus)
    beside = carried(corpus, passages, keep_texts=request.corpus.keep_texts)
    backend = open_backend(request, loaded=given.model, progress=progress, quiet=quiet)
    try:
        check_requests()  # vLLM's start drops an interrupt at some moments
        refused = corpus.refused
        prompts = tokenise(passages, backend.model.tokenizer, request.context, refused)
        kept = [passage.source_row not in refused for passage in passages]
        passages = list(compress(passages, kept))
        plan = make_plan(
            request=request, corpus=corpus, passages=passages, backend=backend, prompts=prompts
        )
    except BaseException:
        backend.close()
        raise
    return Prepared(
        plan=plan,
        prompts=beside.of(kept).beside(prompts),
        backend=backend,
        set_aside=refused.table(),
        carried=beside.lines(),
    )


def choose_passages(
    spec: CorpusSpec, selection: Selection, corpus: Corpus | None = None
) -> tuple[Corpus, list[Passage]]:
    """The corpus and the texts that the selection takes; no look at the model under test.

    corpus: in memory, instead of the one that `spec` names.
    """
    corpus = corpus or open_corpus(
        spec.name,
        revision=spec.revision,
        split=spec.split,
        text_field=spec.text_field,
        fields=spec.fields,
    )
    counter = None
    if selection.count_with is not None:
        counter = token_counter(load_tokenizer(selection.count_with))
    return corpus, select(corpus, selection, counter)
