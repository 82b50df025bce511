"""From a request to everything that a run needs: prompts, the model in a backend, the plan.

Cheap checks come first: the corpus is read and the prompts are chosen before a model loads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress

import pyarrow as pa
import pyarrow.compute as pc

from lpp.capture.backends.open import open_backend
from lpp.capture.corpus.carried import carried, unseen
from lpp.capture.corpus.conversations import choose_template
from lpp.capture.corpus.fields import LOSS_MASK
from lpp.capture.corpus.open import open_corpus
from lpp.capture.corpus.passages import Corpus, Passage
from lpp.capture.corpus.prompts import token_counter, tokenise
from lpp.capture.corpus.selection import Selection, select
from lpp.capture.engine.continuations import (
    Continued,
    assume_longest,
    continue_prompts,
    kept_continuations,
)
from lpp.capture.models.load import load_tokenizer
from lpp.capture.models.model_files import check_is_there
from lpp.capture.plan.backend import Backend
from lpp.capture.plan.parts import WHOLE, Part
from lpp.capture.plan.planning import make_plan, site_specs
from lpp.capture.plan.request import NOTHING, CaptureRequest, CorpusSpec, InMemory
from lpp.store import create_store
from lpp.store.errors import InputError, Mistakes, together
from lpp.store.format.plan import Plan
from lpp.store.format.prompt_columns import TOKEN_PREFIX, token_columns
from lpp.store.objects.place import Url
from lpp.store.process.signals import check_requests
from lpp.store.progress import SILENT, Progress
from lpp.store.store import open_if_any


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A plan with everything it needs to run. Close it to free the model's memory."""

    plan: Plan
    prompts: pa.Table
    """All prompts of the plan: `PROMPTS_SCHEMA`, then their extra columns."""
    backend: Backend
    set_aside: pa.Table
    """Texts of the corpus that became no prompt, `lpp.store.format.quarantine.TEXTS_SCHEMA`."""
    carried: Sequence[str] = ()
    """What the prompts carry, in words, a line each."""
    assumed: bool = False
    """Whether the model has not written yet, so that prompts have their maximum length."""
    stays_open: bool = False
    """Whether the backend belongs to the caller, who uses it again."""

    def close(self) -> None:
        """Close the backend, unless it belongs to the caller."""
        if not self.stays_open:
            self.backend.close()


def prepare(
    request: CaptureRequest,
    *,
    given: InMemory = NOTHING,
    root: Url | None = None,
    writes: bool = True,
    part: Part = WHOLE,
    progress: Progress = SILENT,
    quiet: bool = True,
) -> Prepared:
    """Choose the prompts, load the model, let it continue them, freeze the plan.

    given: what is in memory already. root: the store for what the model writes, created if it does
    not exist. writes: whether the model may write. Otherwise, or without a store, each prompt is
    assumed to have its maximum length, unless the store has continuations of all of them. part: its
    continuations are written first. progress: gets a line for slow steps. quiet: keep the
    libraries' own warnings off stderr.

    Raises InputError for errors in the request, MachineError for what the machine lacks.
    """
    mistakes = Mistakes()
    with mistakes.gather():
        if given.model is None and given.backend is None:
            check_is_there(request.model.id)
    with mistakes.gather():
        corpus, passages = choose_passages(
            request.corpus, request.selection, given.corpus, progress=progress
        )
        beside = carried(corpus, passages, keep_texts=request.corpus.keep_texts)
    mistakes.raise_any()
    # the plan records how many were taken, so that it is the plan of --prompts with that number
    selection = replace(request.selection, prompts=len(passages), unasked=False)
    request = replace(
        request,
        selection=selection,
        model=replace(request.model, tokenizer_optional=all(p.given for p in passages)),
    )
    backend = given.backend or open_backend(
        request, loaded=given.model, progress=progress, quiet=quiet
    )
    try:
        check_requests()  # vLLM may drop an interrupt while it starts
        refused, tokenizer = corpus.refused, backend.model.tokenizer
        if tokenizer is None and not request.model.tokenizer_optional:
            raise InputError(
                "the tokenizer is None, and texts and messages need one. Give the one that "
                "AutoTokenizer.from_pretrained loads for the model, or rows of token ids "
                "(input_ids)."
            )
        template = choose_template(
            tokenizer,
            request.corpus.chat_template,
            (p.conversation for p in passages if p.conversation is not None),
        )
        if template is not None and LOSS_MASK in corpus.fields.per_token:
            raise InputError(
                f"--token-fields {LOSS_MASK}: the loss mask of conversations comes from their "
                "template. Leave it out."
            )
        prompts = tokenise(
            passages,
            tokenizer,
            request.context,
            refused,
            size=backend.model.info.logits_width,
            template=template,
            per_token=corpus.fields.per_token,
        )
        by_token = token_columns(prompts.schema)
        if by_token and request.continuation is not None:
            raise InputError(
                f"--continue: the prompts have values by token ({', '.join(by_token)}), and what "
                "the model writes has none. Leave --continue or those fields out."
            )
        has_tokens = [passage.source_row not in refused for passage in passages]
        passages = list(compress(passages, has_tokens))
        continued = None
        if request.continuation is not None:
            site_specs(request, backend)  # refuse early what `plan` would refuse
            continued = _continued(
                root, request, backend, prompts, part=part, progress=progress, writes=writes
            )
            prompts = continued.prompts
        plan = make_plan(
            request=request,
            corpus=corpus,
            passages=passages,
            backend=backend,
            prompts=prompts,
            continuation=None if continued is None else continued.info,
            template=None if template is None else template.info,
        )
    except BaseException:
        if given.backend is None:
            backend.close()
        raise
    return Prepared(
        plan=plan,
        prompts=beside.of(has_tokens).beside(prompts),
        backend=backend,
        set_aside=refused.table(),
        carried=[
            *beside.lines(),
            *_by_token(prompts),
            *(() if template is None else template.notes),
            *([f"set aside: {aside}"] if (aside := refused.summary()) else ()),
            *(_short(prompts, request.longest) if given.backend is None else ()),
            *(_repeated(prompts) if given.backend is None else ()),
        ],
        assumed=continued is not None and continued.assumed,
        stays_open=given.backend is not None,
    )


def _by_token(prompts: pa.Table) -> list[str]:
    """A line on the values by token, if there are any."""
    listed = []
    for name in token_columns(prompts.schema):
        missing = prompts[name].null_count
        lacking = f" (null in {missing} of {prompts.num_rows} prompts)" * bool(missing)
        listed.append(name.removeprefix(TOKEN_PREFIX) + lacking)
    return [f"with {', '.join(listed)} for each token"] * bool(listed)


def _short(prompts: pa.Table, context: int) -> list[str]:
    """A line on texts that are shorter than the context, if there are any."""
    short = pc.sum(pc.less(prompts["n_tokens"], context)).as_py()
    if short == prompts.num_rows:
        longest = pc.max(prompts["n_tokens"]).as_py()
        return [
            f"no text has {context} tokens, the longest has {longest}: numbers at longer prefixes "
            f"are of whole texts (flag short_text). Give --context {longest}, or less"
        ]
    return [
        f"{short:,} of {prompts.num_rows:,} texts have fewer than {context} tokens: longer "
        "prefixes take them whole, with the flag short_text if they are more than 10 %"
    ] * bool(short)


def _repeated(prompts: pa.Table) -> list[str]:
    """A line on prompts that occur before, if there are any."""
    repeated = prompts.num_rows - pc.count_distinct(prompts["sha256"]).as_py()
    return [
        f"prompts with the tokens of an earlier one: {repeated:,} of {prompts.num_rows:,}. "
        "Standard errors count them as independent: leave them out of the corpus"
    ] * bool(repeated)


def _continued(
    root: Url | None,
    request: CaptureRequest,
    backend: Backend,
    prompts: pa.Table,
    *,
    part: Part,
    progress: Progress,
    writes: bool,
) -> Continued:
    """`prompts` with continuations: the store's, those the model writes now, or assumed ones."""
    if root is not None and writes:
        store = create_store(root).objects
        return continue_prompts(store, request, backend, prompts, part=part, progress=progress)
    held = None if root is None else open_if_any(root)
    stored = None
    if held is not None:
        stored = kept_continuations(held.objects, request, backend, prompts)
    return stored or assume_longest(request, backend, prompts)


def choose_passages(
    spec: CorpusSpec,
    selection: Selection,
    corpus: Corpus | None = None,
    *,
    progress: Progress = SILENT,
) -> tuple[Corpus, list[Passage]]:
    """The corpus and the selected texts; the model under test plays no role.

    corpus: in memory, instead of the one that `spec` names.
    """
    corpus = corpus or open_corpus(
        spec.name,
        revision=spec.revision,
        split=spec.split,
        text_field=spec.text_field,
        fields=spec.fields,
        token_fields=spec.token_fields,
        progress=progress,
    )
    counter = None
    if selection.count_with is not None:
        counter = token_counter(load_tokenizer(selection.count_with, progress=progress))
    try:
        return corpus, select(corpus, selection, counter, progress)
    except InputError as error:  # too few texts: every row was read
        raise together([error, *unseen(corpus)]) from None
