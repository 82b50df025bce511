"""What a user asks of an evaluation, before anything is opened."""

from dataclasses import dataclass, replace
from typing import Final

from lpp.capture.corpus.selection import Selection
from lpp.capture.plan.request import CaptureRequest, ContinuationSpec
from lpp.store.errors import InputError

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
class EvalRequest:
    """Tasks of lm-eval on one model. InputError for fields that meet those of `PROMPT_FIELDS`."""

    capture: CaptureRequest
    """How the model runs and what is kept; corpus name, selection and context are the tasks'."""
    tasks: tuple[str, ...]
    """Names of tasks, groups and tags of lm-eval, YAML files, and folders of them."""
    limit: int | None = None
    """Ask only the first `limit` items of each task."""
    shots: int | None = None
    """Solved items before each question; None: as the task says."""
    chat: bool = False
    """Use the model's chat template, with the shots as turns."""
    context: int | None = None
    """C: most tokens of a prompt; longer ones lose their beginning. None: the model's positions."""
    group: str | None = None
    """Field of a document that says to which group it belongs, such as a subject."""
    trust_task_code: bool = False
    """Let tasks that come with neither lm-eval nor this package run code."""

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
