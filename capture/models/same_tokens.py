"""Check the tokens of a tokenizer that the caller has loaded, in a fresh process.

A plan identifies a tokenizer by the rules that its fast backend serialises. A method that a
notebook has replaced is not among them.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

from lpp.capture.corpus.conversations import ChatTemplate, rendered
from lpp.capture.corpus.passages import Passage
from lpp.store.errors import ErrorKind, InputError, MachineError

_COMMAND: Final = """
import array, hashlib, json, sys
from tokenizers import Tokenizer
question = json.load(sys.stdin)
tokenizer = Tokenizer.from_str(question["rules"])
tokenizer.no_padding()
tokenizer.no_truncation()
def digest(ids):
    words = array.array("i", ids)
    if sys.byteorder == "big":
        words.byteswap()
    return hashlib.sha256(words.tobytes()).hexdigest()
encodings = [
    encoding
    for texts, special in question["texts"]
    for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=special)
]
print(json.dumps([digest(e.ids[:question["context"]]) for e in encodings]))
"""

_NO_TOKENS: Final = hashlib.sha256().hexdigest()


def fresh_python(
    command: str, *arguments: str, given: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run `command` in a new Python that imports from where this process does.

    given: its standard input. No code that this process has replaced is there.
    """
    return subprocess.run(
        [sys.executable, "-P", "-c", command, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
        input=given,
        capture_output=True,
        check=False,
    )


def why_it_failed(done: subprocess.CompletedProcess[bytes]) -> str:
    """The last line that a failed process printed; its exit code if it printed none."""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"


def check_tokens(
    tokenizer: Any,
    passages: Sequence[Passage],
    prompts: pa.Table,
    context: int,
    template: ChatTemplate | None = None,
) -> None:
    """Raise InputError unless a fresh process gives every passage the tokens of its prompt.

    prompts: of the passages that have tokens, `lpp.store.format.tables.PROMPTS_SCHEMA`, cut at
    `context`. template: of conversations, which are rendered here. Tokens that the corpus gave are
    not checked. A tokenizer without a fast backend is not checked: its rules are Python, and a plan
    identifies prompts by their ids. Costs a start of Python, without torch, and the tokenisation of
    all texts.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or all(passage.given for passage in passages):
        return
    sha256_of = dict(
        zip(*prompts.select(["source_row", "sha256"]).to_pydict().values(), strict=True)
    )
    plain = [(passage, passage.text) for passage in passages if passage.is_text]
    by_template = [
        (passage, rendered(tokenizer, template, passage.conversation))
        for passage in passages
        if passage.conversation and template and passage.source_row in sha256_of
    ]
    texts = [
        ([text for _, text in pairs], special)
        for pairs, special in ((plain, True), (by_template, False))
    ]
    question = {"rules": backend.to_str(), "texts": texts, "context": context}
    done = fresh_python(_COMMAND, given=json.dumps(question).encode())
    if done.returncode != 0:
        raise MachineError(
            "a fresh process that would check the tokenizer's code failed: "
            f"{why_it_failed(done)}. Capture with `lpp-capture run`, which needs no check.",
            kind=ErrorKind.ENGINE_DIED,
        )
    checked = (*plain, *by_template)
    for (passage, _), expected in zip(checked, json.loads(done.stdout), strict=True):
        if sha256_of.get(passage.source_row, _NO_TOKENS) != expected:
            raise InputError(
                f"the code of the tokenizer, {type(tokenizer).__name__}, was changed in this "
                f"process: by its rules, {passage.text[:40]!r} has other tokens. A plan cannot "
                "describe a replaced method. Load the tokenizer again, or restart Python.",
                kind=ErrorKind.UNSUPPORTED_MODEL,
            )
