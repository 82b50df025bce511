"""Logits from vLLM, hidden states from transformers: two passes, one run.

For a model whose blocks vLLM runs in a way that cannot be read, or if the hidden states should have
transformers' own arithmetic while the logits come at serving speed. Costs both passes, and both
models in memory.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import tee

import numpy as np
import numpy.typing as npt

from lpp.capture.backends.torch_backend import TorchBackend
from lpp.capture.backends.vllm.backend import VllmBackend
from lpp.capture.models.spec import Model
from lpp.capture.models.structure.sites import Sites
from lpp.capture.plan.backend import (
    Backend,
    Batch,
    Beginning,
    Captured,
    Outputs,
    Writing,
    Written,
)
from lpp.capture.plan.request import CaptureRequest
from lpp.store.errors import ErrorKind, InputError, MachineError
from lpp.store.format.plan import ComputeInfo
from lpp.store.progress import SILENT, Progress
from lpp.store.shared.logits import HeadContent


class JoinedBackend:
    """Runs every batch in both. Implements `plan.backend.Backend`.

    logits: gives the statistics. hidden: gives everything else.
    """

    def __init__(self, *, logits: Backend, hidden: Backend) -> None:
        self._logits, self._hidden = logits, hidden

    @classmethod
    def load(
        cls, request: CaptureRequest, *, progress: Progress = SILENT, quiet: bool = True
    ) -> "JoinedBackend":
        """The same model twice. Raises as both of them do."""
        # each gets the options of its own
        for_vllm = replace(
            request,
            model=replace(request.model, device_map=None, quantization=None, attention="auto"),
        )
        logits = VllmBackend.load(for_vllm, progress=progress, quiet=quiet)
        try:
            hidden = TorchBackend.load(request, progress=progress, quiet=quiet)
            _check_same_model(hidden.model, logits.model)
        except BaseException:
            logits.close()
            raise
        return cls(logits=logits, hidden=hidden)

    @property
    def model(self) -> Model:
        """The model in transformers."""
        return self._hidden.model

    @property
    def sites(self) -> Sites:
        """The sites of the model in transformers."""
        return self._hidden.sites

    @property
    def compute(self) -> ComputeInfo:
        """Both computations: vLLM's attention, then that of transformers."""
        ours, theirs = self._hidden.compute, self._logits.compute
        maps = [m for m in (theirs.device_map, ours.device_map) if m is not None]
        return replace(
            ours,
            backend="vllm+torch",
            attention=f"{theirs.attention}+{ours.attention}",
            device_map="+".join(maps) or None,
            versions={**ours.versions, **theirs.versions},
        )

    @property
    def reuses(self) -> bool:
        """Whether transformers reuses keys and values for the hidden states; vLLM does not."""
        return self._hidden.reuses

    def allocate(self, size: int) -> npt.NDArray[np.uint8]:
        """Memory as the backend of the hidden states needs it."""
        return self._hidden.allocate(size)

    def capture(self, batches: Iterable[Batch], outputs: Outputs) -> Iterator[Captured]:
        """Yield each batch once both have run it. Raises MachineError if their rows differ."""
        # holds the batches that the faster backend is ahead: one or two
        for_hidden, for_logits = tee(batches)
        statistics_alone = Outputs(sites=(), dtype=outputs.dtype)
        both = zip(
            self._hidden.capture(for_hidden, outputs),
            self._logits.capture(
                (replace(batch, hidden={}) for batch in for_logits), statistics_alone
            ),
            strict=True,
        )
        for states, logits in both:
            check_same_rows(states.batch, logits.batch)
            yield replace(
                states, statistics=logits.statistics, failed={**states.failed, **logits.failed}
            )

    def write(self, beginnings: Sequence[Beginning], how: Writing) -> Iterator[Written]:
        """Continue prompts inside vLLM, which is faster."""
        return self._logits.write(beginnings, how)

    def head(self) -> HeadContent | str:
        """The head of the model in transformers, whose `final` is stored."""
        return self._hidden.head()

    def close(self) -> None:
        """Free the memory of both."""
        self._logits.close()
        self._hidden.close()


def _check_same_model(ours: Model, theirs: Model) -> None:
    if (ours.info.weights, ours.tokenizer_info.fingerprint) != (
        theirs.info.weights,
        theirs.tokenizer_info.fingerprint,
    ):
        raise InputError(
            f"{ours.info.id} changed between its two readings: its fingerprints differ. "
            "Repeat the command when nothing writes into its folder.",
            kind=ErrorKind.CORRUPT,
        )


def check_same_rows(ours: Batch, theirs: Batch) -> None:
    """Raise unless both batches are the same tokens of the same prompts."""
    if (
        ours.prompt_ids != theirs.prompt_ids
        or ours.lengths != theirs.lengths
        or not np.array_equal(ours.token_ids, theirs.token_ids)
        or not np.array_equal(ours.logit_rows, theirs.logit_rows)
    ):
        raise MachineError(
            f"the two backends returned different rows in shard {ours.shard}: prompts "
            f"{ours.prompt_ids[:3]} and {theirs.prompt_ids[:3]} first. Nothing of this shard was "
            "kept. Capture with one backend: --backend torch.",
            kind=ErrorKind.ENGINE_DIED,
        )
