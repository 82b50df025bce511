"""What `lpp-capture eval` and `probe` are asked beside how a capture runs: each setting once."""

from dataclasses import dataclass
from typing import Final, Literal

from lpp.capture.probes.items import ITEM_SEED, SHOTS
from lpp.store.settings.setting import setting

VLLM_CONTEXT: Final = 2048
"""Tokens that vLLM makes room for, by default: the longest prompt of the probes has some 1,400."""

_BACKEND: Final = "Run the model in transformers (torch) or in vLLM"
_LIMIT: Final = "Ask only the first N items of each task."
_CHAT: Final = "Apply the model's chat template, with the shots as turns."
_REPLACE: Final = "Replace the scores that the store has of this model."


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """The settings of `lpp-capture eval`."""

    backend: Literal["torch", "vllm"] = setting("torch", f"{_BACKEND}, which needs --context.")
    tasks: tuple[str, ...] = setting(
        (),
        "Ask these tasks, separated by commas: tasks, groups or tags of lm-eval, YAML files, or "
        "folders of them.",
        metavar="NAMES",
    )
    limit: int | None = setting(None, _LIMIT, least=1, metavar="N")
    shots: int | None = setting(
        None,
        "Put N solved items before each question. Default: as the task says.",
        least=0,
        metavar="N",
    )
    chat: bool = setting(False, _CHAT)
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
    replace: bool = setting(False, _REPLACE)


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """The settings of `lpp-capture probe`."""

    backend: Literal["torch", "vllm"] = setting("torch", f"{_BACKEND}.")
    probes: tuple[Literal["ar", "spc"], ...] = setting(
        (),
        "Run only this probe: ambiguous reasoning (ar) or symbolic patterns (spc).",
        name="probe",
    )
    shots: int = setting(
        SHOTS, "Put this many solved items before each question.", least=0, most=SHOTS
    )
    limit: int | None = setting(None, _LIMIT, least=1, metavar="N")
    item_seed: int = setting(ITEM_SEED, "Draw the items from this seed; 0 gives the standard set.")
    chat: bool = setting(False, _CHAT)
    context: int | None = setting(
        None,
        "Refuse prompts longer than C tokens. Default: as many as the model has positions; "
        f"{VLLM_CONTEXT} in vLLM.",
        least=2,
        metavar="C",
    )
    replace: bool = setting(False, _REPLACE)
