"""The text of each token of a tokenizer, stored once for all its runs."""

from typing import Any

import pyarrow as pa

from lpp.capture.models.spec import ModelSpec
from lpp.capture.models.vocabulary import vocabulary
from lpp.store import Run
from lpp.store.errors import FormatError, InputError, first_line
from lpp.store.format.plan import TokenizerInfo
from lpp.store.objects.place import Url
from lpp.store.shared.vocabularies import add_vocabulary, holds_vocabulary


def keep_vocabulary(root: Url, info: TokenizerInfo, tokenizer: Any) -> str:
    """Write the vocabulary of `tokenizer` to the store at `root`, unless it is there: a small read.

    Returns a line for the user: if the tokenizer cannot list its tokens, they are shown as ids.
    Else it is empty. Raises MachineError for a full or read-only disk.
    """
    if not info.exists:
        return "tokens stay numbers: the model has no tokenizer"
    try:
        if not holds_vocabulary(root, info.fingerprint):
            add_vocabulary(root, info.fingerprint, _tokens(tokenizer))
    except (InputError, FormatError) as error:
        return f"tokens of {info.id} stay numbers: {error}"
    return ""


def _tokens(tokenizer: Any) -> pa.Table:
    try:
        return vocabulary(tokenizer)
    except Exception as error:  # a tokenizer may run any Python code and raise any error
        what = f"{type(error).__name__}: {first_line(error)}"
        message = f"the tokenizer cannot list them ({what})"
        raise InputError(message) from None


def keep_vocabulary_of_run(run: Run, spec: ModelSpec) -> None:
    """Like `keep_vocabulary`, for a run whose model is not loaded.

    Loads its tokenizer if the store has no vocabulary yet, and raises what that raises.
    """
    info, root = run.plan.tokenizer, run.directory.root
    if not info.exists or holds_vocabulary(root, info.fingerprint):
        return
    # not at the top: a repeated command for a finished run starts without torch
    from lpp.capture.models.fingerprints import tokenizer_fingerprint
    from lpp.capture.models.load import load_tokenizer

    tokenizer = load_tokenizer(spec.id, spec.revision, trust_remote_code=spec.trust_remote_code)
    if tokenizer_fingerprint(tokenizer) == info.fingerprint:
        keep_vocabulary(root, info, tokenizer)
