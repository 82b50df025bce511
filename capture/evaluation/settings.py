"""What `lpp-capture eval` is asked beside how a capture runs: each setting once."""

from dataclasses import dataclass
from typing import Literal

from lpp.store.settings.setting import setting


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
        "Cut the beginning of prompts longer than C tokens. Default: as many as the model has "
        "positions.",
        least=2,
        metavar="C",
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
