"""The base and the changed models, captured on the same prompts."""

import shutil
from typing import Any, Final

from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.detection.damage import Dose
from benchmarks.detection.setting import Setting
from lpp.capture import capture
from lpp.store import Run

BASE: Final = Dose(name="base", kind="base", amount=0, label="as it is")


def captured(setting: Setting, dose: Dose) -> Run:
    """The run of a dose, in a store of its own; what is there already is not computed again."""
    model, tokenizer = changed_model(setting, dose)
    return capture(
        model,
        tokenizer,
        "pydoc",
        store=setting.store(dose.name),
        prompts=setting.prompts,
        context=setting.context,
        sites=setting.sites,
        keep_head="yes",
        name=dose.name,
        quiet=True,
        **dose.options,
    )


def changed_model(setting: Setting, dose: Dose) -> tuple[Any, Any]:
    """The model after a dose, and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(setting.model)
    model = AutoModelForCausalLM.from_pretrained(setting.model, dtype="auto", **dose.loading)
    if dose.change is not None:
        dose.change(model, tokenizer)
    return model, tokenizer


def removed(setting: Setting, dose: Dose) -> None:
    """Remove the rows of a measured dose: 0.2 GB."""
    shutil.rmtree(setting.store(dose.name), ignore_errors=True)
