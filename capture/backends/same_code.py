"""Find replaced code: capture a few tokens in a fresh process too, and compare every number.

Fingerprints cover weights, settings and buffers, but not the code that a process runs. A notebook
may have replaced a method of a class, a function of a module or an attention kernel, or set a hook
on all modules. No list of such places is complete, so the numbers decide. The fresh process loads
the model from its files. A model that differs from its files is handed over as a pickle, which
names classes and functions and contains none of their code.
"""

import copy
import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import torch

from lpp.capture.backends.torch_backend import TorchBackend
from lpp.capture.models.instantiate import trained_model, untrained_model
from lpp.capture.models.loaded import left_as_it_was, origin
from lpp.capture.models.machine import out_of_memory
from lpp.capture.models.model_files import read_config
from lpp.capture.models.same_tokens import fresh_python, why_it_failed
from lpp.capture.models.same_weights import check_described
from lpp.capture.models.spec import Model, ModelSpec
from lpp.capture.models.structure.anatomy import probe_ids
from lpp.capture.plan.backend import Batch, Beginning, Outputs, Writing
from lpp.capture.plan.request import CaptureRequest
from lpp.store.arrays.layout import NUMPY_DTYPE
from lpp.store.errors import ErrorKind, InputError, LppError, MachineError, first_line
from lpp.store.format.plan import ComputeInfo

_LENGTHS: Final = (7, 5)
"""Tokens of the two prompts; the second is padded."""

_WRITTEN: Final = "written ln p"
_TOLERANCE: Final = 1e-4
"""Tolerance of ln p while writing: its last bits differ between processes, those of a capture do
not."""

_WRITING: Final = Writing(tokens=3, temperature=0.0, seed=0, end_ids=())

_COMMAND: Final = (
    "import sys; from lpp.capture.backends.same_code import answer_question; answer_question()"
)

_MODULE, _QUESTION, _NUMBERS, _ERROR = "module.pt", "asked.pickle", "numbers.pickle", "error.json"

Tensors = Mapping[str, npt.NDArray[Any]]
"""Sites in depth order, then statistics of the logits, then written tokens."""


@dataclass(frozen=True, kw_only=True)
class _Question:
    """What the fresh process has to compute."""

    model: Model
    """Without its modules and tokenizer."""
    compute: ComputeInfo
    spec: ModelSpec
    """Names the folder of the files, with the dtype and attention of the model at hand."""
    pickled: bool
    """Whether the model is handed over, not loaded from files."""
    writes: bool
    threads: int
    """torch's threads: with another number, products are added in another order."""


_answers: Final[dict[bytes, Tensors]] = {}
"""Answers by question. An answer depends on files and releases alone, so it holds for as long as
this process; the model at hand computes anew at each capture."""


def check_code(backend: TorchBackend, request: CaptureRequest) -> None:
    """Raise InputError unless a fresh process captures the same numbers with the model.

    backend: in the caller's process. Costs a start of Python and torch, and a second
    copy of the model in memory until the numbers are compared; the next check of the same model in
    this process costs one pass over 12 tokens. Raises MachineError if there is no room.
    """
    module, model = backend.model.module, backend.model
    folder = _folder(model, request.model)
    if folder is None:
        check_described(module)
    question = _Question(
        model=replace(model, module=None, tokenizer=None),
        compute=backend.compute,
        spec=replace(
            request.model,
            id=str(folder),
            revision=None,
            dtype=model.dtype,
            attention=cast("Any", backend.compute.attention),
        ),
        pickled=folder is None,
        writes=request.continuation is not None,
        threads=torch.get_num_threads(),
    )
    key = pickle.dumps(question) + (
        b"" if folder is None else (folder / "config.json").read_bytes()
    )
    if key not in _answers:
        _answers[key] = _in_fresh_process(question, module)
    # a copy: the backend itself has not run yet
    _compare(_numbers(copy.copy(backend), writes=question.writes), _answers[key], model.info.id)


def _folder(model: Model, spec: ModelSpec) -> Path | None:
    """The files to load the model from; None: it differs from its files, or has none.

    Quantised weights and the hooks that move weights between devices cannot be pickled.
    """
    if model.folder.is_dir():
        return model.folder
    source = origin(model.module)
    return source[0] if source and (spec.quantization or spec.device_map) else None


def _numbers(backend: TorchBackend, *, writes: bool) -> Tensors:
    """The values that a capture of a few tokens stores, in order of computation."""
    rows = probe_ids(backend.model.module).cpu().numpy().astype(np.int32)
    prompts = [row[:length] for row, length in zip(rows, _LENGTHS, strict=True)]
    ids = np.concatenate(prompts)
    dtype, sites = backend.model.dtype, backend.sites
    hidden = {
        site: np.zeros((len(ids), sites.width(site)), NUMPY_DTYPE[dtype]) for site in sites.names
    }
    batch = Batch(
        shard=0,
        prompt_ids=(0, 1),
        lengths=_LENGTHS,
        token_ids=ids,
        logit_rows=np.arange(len(ids)),
        hidden=hidden,
        ends_shard=True,
    )
    (captured,) = backend.capture([batch], Outputs(sites=sites.names, dtype=dtype))
    numbers = {
        **hidden,
        **{f"logits {name}": values for name, values in captured.statistics.items()},
    }
    if writes:
        begun = [Beginning(prompt_id=n, token_ids=tokens) for n, tokens in enumerate(prompts)]
        for written in backend.write(begun, _WRITING):
            numbers[f"written tokens {written.prompt_id}"] = written.token_ids
            numbers[f"{_WRITTEN} {written.prompt_id}"] = written.logprobs
    return numbers


def _compare(current: Tensors, fresh: Tensors, name: str) -> None:
    for part, here in current.items():
        there = fresh.get(part)
        if there is None or here.shape != there.shape:
            same = False
        elif part.startswith(_WRITTEN):
            same = np.allclose(here, there, rtol=0, atol=_TOLERANCE, equal_nan=True)
        else:
            same = here.tobytes() == there.tobytes()
        if not same:
            raise InputError(
                f"the code of {name} was changed in this process: the same tokens give other "
                f"numbers in a fresh process, from {part} on. A plan cannot describe a replaced "
                "method, function, hook or attention kernel. Undo the change, or restart Python. "
                "To capture a changed model, change its weights, or put modules of a class of your "
                "own into it, from a file that can be imported.",
                kind=ErrorKind.UNSUPPORTED_MODEL,
            )


def _in_fresh_process(question: _Question, module: torch.nn.Module) -> Tensors:
    """Start Python anew, and return its answer."""
    with tempfile.TemporaryDirectory(prefix="lpp-fresh-") as name:
        folder = Path(name)
        (folder / _QUESTION).write_bytes(pickle.dumps(question))
        if question.pickled:
            _hand_over(module, folder / _MODULE, question.model.info.id)
        done = fresh_python(_COMMAND, name)
        if done.returncode == 0:
            return cast("Tensors", pickle.loads((folder / _NUMBERS).read_bytes()))
        raise _failure(question, folder, done)


def _hand_over(module: torch.nn.Module, file: Path, name: str) -> None:
    try:
        with left_as_it_was(module):
            _drop_recorders(module)
            torch.save(module, file)
    except (OSError, RuntimeError, TypeError, ValueError, AttributeError, pickle.PickleError) as e:
        raise InputError(
            f"{name} differs from its files, and a fresh process that would check its code cannot "
            f"be given it in a file in {file.parent.parent}: {first_line(e)}. Save it with "
            "save_pretrained, and give the name of that folder instead of the model.",
            kind=ErrorKind.UNSUPPORTED_MODEL,
        ) from e


def _drop_recorders(module: torch.nn.Module) -> None:
    """Remove the hooks with which transformers records outputs: local functions, which a pickle
    cannot name.
    """
    for part in module.modules():
        hooks = vars(part)["_forward_hooks"]
        for key, hook in list(hooks.items()):
            if getattr(hook, "__module__", "").startswith("transformers."):
                del hooks[key]


def _failure(
    question: _Question, folder: Path, done: subprocess.CompletedProcess[bytes]
) -> LppError:
    """Why the fresh process gave no answer."""
    name = question.model.info.id
    what: dict[str, Any] = {"memory": done.returncode < 0, "line": ""}  # killed: by the system
    if (folder / _ERROR).is_file():
        what = json.loads((folder / _ERROR).read_bytes())
    if what["memory"]:
        return MachineError(
            f"there is no memory for a second copy of {name}, with which a fresh process checks "
            "the code of this one. Free some; or save the model with save_pretrained and capture "
            "that folder with `lpp-capture run`, which needs no such check.",
            kind=ErrorKind.NO_MEMORY,
        )
    line = what["line"] or why_it_failed(done)
    return InputError(
        f"{name} cannot be loaded in a fresh process, which checks its code: {line}. Restart "
        "Python and load it again; or save it with save_pretrained, and give that folder's name.",
        kind=ErrorKind.UNSUPPORTED_MODEL,
    )


def answer_question() -> None:
    """The fresh process: read the question in the folder named on the command line, answer it."""
    folder = Path(sys.argv[1])
    try:
        question: _Question = pickle.loads((folder / _QUESTION).read_bytes())
        if torch.get_num_threads() != question.threads:
            torch.set_num_threads(question.threads)
        module = _loaded(question, folder)
        with left_as_it_was(module):
            # unchecked: transformers records no hidden states of a model that was pickled
            backend = TorchBackend(
                replace(question.model, module=module), question.compute, checked=True
            )
            numbers = _numbers(backend, writes=question.writes)
        (folder / _NUMBERS).write_bytes(pickle.dumps(numbers))
    except Exception as error:
        what = {"memory": out_of_memory(error), "line": first_line(error)}
        (folder / _ERROR).write_text(json.dumps(what))
        raise


def _loaded(question: _Question, folder: Path) -> Any:
    if question.pickled:
        return torch.load(folder / _MODULE, weights_only=False, mmap=True)
    spec = question.spec
    config = read_config(Path(spec.id), spec)
    if spec.untrained_seed is not None:
        return untrained_model(config, spec).eval().requires_grad_(False)
    try:
        module = trained_model(Path(spec.id), config, spec)
    except (RuntimeError, MemoryError) as error:
        if spec.device == "cpu" or spec.device_map is not None or not out_of_memory(error):
            raise
        spec = replace(spec, device_map="auto")  # other cards, host memory: the same kernels
        module = trained_model(Path(spec.id), config, spec)
    return module.eval().requires_grad_(False)
