"""The model of an evaluation. Its weights are loaded when a pass is needed, and not before.

A command that is repeated finds its runs by their notes (`lpp.capture.engine.run_cache`), so it
needs the tokenizer alone: what the weights are called stands in the plan of any of those runs.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from lpp.capture.backends.open import open_backend
from lpp.capture.engine.outcome import Outcome
from lpp.capture.engine.run_cache import (
    check_noted,
    noted_run,
    remember,
    request_key,
    skip_finished,
)
from lpp.capture.evaluation.sequences import EncodedRequest
from lpp.capture.models.fingerprints import document_fingerprint, tokenizer_fingerprint
from lpp.capture.models.load import load_text_side
from lpp.capture.plan.backend import Backend
from lpp.capture.plan.parts import WHOLE
from lpp.capture.plan.request import CaptureRequest
from lpp.store import Store
from lpp.store.errors import LppError
from lpp.store.format.plan import ComputeInfo, ModelInfo
from lpp.store.objects.place import Url
from lpp.store.progress import BLANK, SILENT, Display, Progress


class EvaluatedModel:
    """The model of `request`: described by a run of the store at `root` if there is one, else
    opened at once. Close it to free the model's memory.

    Raises what `open_backend` does.
    """

    info: ModelInfo
    compute: ComputeInfo
    tokenizer: Any
    max_positions: int | None
    """Longest prompt; None where there is no limit."""

    def __init__(
        self,
        root: Url,
        request: CaptureRequest,
        *,
        bar: Progress = SILENT,
        quiet: bool = True,
        display: Display = BLANK,
    ) -> None:
        self._root, self._request, self._quiet, self._display = root, request, quiet, display
        self._backend: Backend | None = None
        # of the files as they are before they are read
        of_model = request_key(request)
        self._key = None if of_model is None else document_fingerprint(["evaluation", of_model])
        if not self._find():
            self._open(bar)

    def backend(self) -> Backend:
        """The model, loaded."""
        if self._backend is None:
            with self._display.step("prepare", 1, "model") as bar:
                opened = self._open(bar)
                bar.advance()
            return opened
        return self._backend

    def close(self) -> None:
        """Close the backend, if it was opened."""
        if self._backend is not None:
            self._backend.close()

    def key(self, task: str, requests: Sequence[EncodedRequest], tokens: int) -> str | None:
        """Key of the run of a task (`InMemory.key`): of the model, and of every token and text.

        tokens: most tokens that the model writes after each.
        """
        if self._key is None:
            return None
        digest = hashlib.sha256()
        for request in requests:
            text, ids = request.text.encode(), np.asarray(request.ids, "<i4").tobytes()
            for part in (text, ids, f"{request.n_context} {request.dropped}".encode()):
                digest.update(len(part).to_bytes(8, "little"))
                digest.update(part)
        return document_fingerprint([self._key, task, tokens, digest.hexdigest()])

    def finished(self, request: CaptureRequest, key: str | None) -> Outcome | None:
        """The outcome of `request`, where its run is known to be complete. ConflictError where its
        prompts lack a column that `request` asks for.
        """
        if key is None:
            return None
        check_noted(self._root, key, request)
        return skip_finished(self._root, request, WHOLE, key)

    def remember(self, store: Store, run: str) -> None:
        """Note that `run` tells what a further command must know of the model."""
        remember(store, self._key, run)

    def _find(self) -> bool:
        """Whether the store has a run that describes the model."""
        run = noted_run(self._root, self._key)
        if run is None:
            return False
        try:
            plan = run.plan
            spec = self._request.model
            tokenizer, positions = load_text_side(spec, quiet=self._quiet)
        except LppError:
            return False  # opening the model meets it too, and explains it
        if tokenizer_fingerprint(tokenizer) != plan.tokenizer.fingerprint:
            return False
        self._set(plan.model, plan.compute, tokenizer, positions)
        return True

    def _open(self, bar: Progress) -> Backend:
        backend = open_backend(self._request, progress=bar, quiet=self._quiet)
        self._backend, model = backend, backend.model
        self._set(model.info, backend.compute, model.tokenizer, model.max_positions)
        return backend

    def _set(
        self, info: ModelInfo, compute: ComputeInfo, tokenizer: Any, positions: int | None
    ) -> None:
        self.info, self.compute = info, compute
        self.tokenizer, self.max_positions = tokenizer, positions
