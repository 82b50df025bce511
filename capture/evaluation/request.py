"""What a user asks of an evaluation, before anything is opened: each setting once."""

from dataclasses import dataclass, replace
from typing import Final, Literal

from lpp.capture.corpus.selection import Selection
from lpp.capture.plan.request import CaptureRequest, ContinuationSpec
from lpp.store.errors import InputError
from lpp.store.settings.setting import setting

DEFAULT_CONTEXT: Final = 2048
"""Positions of a model without a limit; lm-eval's own default."""

PROMPT_FIELDS: Final = ("task", "item", "choice", "n_context", "n_before_question")
"""What every prompt of an evaluation may carry beside the fields of its document:

- task: the task of lm-eval.
- item: the document's place in the task, from 0.
- choice: which answer of the item stands in the prompt, from 0; of a long text, which window. None
  of a context that several answers share.
- n_context: tokens of the prompt before the answer; 1 of a branch.
- n_before_question: tokens before the question, which are description and shots. None of a branch.
"""


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """The settings of `lpp-capture eval`."""

    backend: Literal["torch", "vllm"] = setting(
        "torch", "Run the model in transformers (torch) or in vLLM, which needs --context."
    )
    tasks: tuple[str, ...] = setting(
        (),
        "Ask these tasks, separated by commas: tasks, groups or tags of lm-eval, YAML files, or "
        "folders of them.",
        metavar="NAMES",
    )
    limit: int | None = setting(
        None, "Ask only the first N items of each task.", least=1, metavar="N"
    )
    shots: int | None = setting(
        None,
        "Put N solved items before each question. Default: as the task says.",
        least=0,
        metavar="N",
    )
    chat: bool = setting(False, "Apply the model's chat template, with the shots as turns.")
    context: int | None = setting(
        None,
        "Cut the beginning of prompts longer than N tokens. Default: as many as the model has "
        "positions.",
        least=2,
        metavar="N",
    )
    fields: tuple[str, ...] = setting(
        (),
        "Keep these fields of each document with its prompts, such as subject,level.",
        metavar="NAMES",
    )
    group: str | None = setting(
        None, "Group the items by this field of their documents, such as subject.", metavar="FIELD"
    )
    trust_task_code: bool = setting(
        False,
        "Let tasks of YAML files run the Python that they name, and read files outside their "
        "folder.",
    )
    replace: bool = setting(False, "Replace the scores that the store has of this model.")


@dataclass(frozen=True, kw_only=True)
class EvalRequest(EvalSettings):
    """Tasks of lm-eval on one model. InputError for fields that meet those of `PROMPT_FIELDS`."""

    capture: CaptureRequest
    """How the model runs and what is kept; corpus name, selection and context are the tasks'."""

    def __post_init__(self) -> None:
        for name in self.capture.corpus.fields:
            if name in PROMPT_FIELDS:
                raise InputError(
                    f"--fields {name}: every prompt of an evaluation has this column already. "
                    "Leave it out."
                )

    def of_task(
        self, task: str, prompts: int, context: int, fields: tuple[str, ...], tokens: int = 0
    ) -> CaptureRequest:
        """The capture of `prompts` sequences of `task`.

        context: tokens of the longest. fields: those that the prompts carry. tokens: most tokens
        that the model writes after each.
        """
        corpus = replace(self.capture.corpus, name=task, fields=fields)
        return replace(
            self.capture,
            corpus=corpus,
            selection=Selection(prompts=prompts, min_bytes=0),
            context=context,
            continuation=ContinuationSpec(tokens=tokens) if tokens else None,
        )
