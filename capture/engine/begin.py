"""Begin a run: its directory, and what it shares with other runs of the store."""

from dataclasses import replace

from lpp.capture.engine.heads import KeptHead, keep_head
from lpp.capture.engine.prepare import Prepared
from lpp.capture.engine.vocabulary import keep_vocabulary
from lpp.capture.plan.request import CaptureRequest
from lpp.store import RunWriter
from lpp.store.objects.place import Url


def begin_run(root: Url, request: CaptureRequest, prepared: Prepared) -> tuple[RunWriter, KeptHead]:
    """Create the run of `prepared` in the store at `root`, or find it; store head and vocabulary.

    The lines say what was done with both.

    Raises ConflictError if the run exists and its prompts lack columns that `request` asks for, or
    have other values; MachineError for a full or read-only disk.
    """
    plan, model = prepared.plan, prepared.backend.model
    writer = RunWriter(root, plan, prepared.prompts, set_aside=prepared.set_aside)
    writer.run.require_columns(request.corpus.columns)
    head = keep_head(root, plan, request, prepared.backend)
    of_vocabulary = keep_vocabulary(root, model.tokenizer_info, model.tokenizer)
    return writer, replace(head, lines=tuple(filter(None, (*head.lines, of_vocabulary))))
