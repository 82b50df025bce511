"""Token ids of conversations by a chat template, and which tokens are the assistant's.

A template whose text has `{% generation %}` blocks says itself what the assistant writes. With any
other, the conversation is rendered and tokenised up to each turn of the assistant, with the
template's generation prompt, and up to the turn's end: what the second adds to the first is the
turn. Both are compared with the whole conversation token by token. A template that renders a turn
otherwise once later turns follow (it drops reasoning from the history, say) cannot be split so, and
the row is refused with the number of the message.

Rendering is `apply_chat_template` of transformers, in a process with limits of time and memory
(`template_process`); ids and masks are those that speculators' `prepare-data` derives for the turns
of one conversation (tests/trainers).
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from lpp.capture.corpus.passages import Conversation, NoPromptError
from lpp.capture.corpus.template_process import TemplateRaisedError, rendered_elsewhere
from lpp.store.errors import ErrorKind, InputError, LppError, first_line
from lpp.store.format.plan import TemplateInfo
from lpp.store.objects.place import check_regular

BAD_TEMPLATE: Final = "bad_template"
"""Reason of a conversation that the template cannot render or split."""

_GENERATION: Final = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplate:
    """A chat template in Jinja, and where it came from."""

    text: str
    source: str
    """`model`, or the name of a file."""
    mask: Literal["generation", "prefixes"]
    """How the tokens of the assistant are told apart."""

    @property
    def info(self) -> TemplateInfo:
        """Its record in a plan."""
        sha256 = hashlib.sha256(self.text.encode()).hexdigest()
        return TemplateInfo(source=self.source, sha256=sha256, mask=self.mask)

    @property
    def notes(self) -> list[str]:
        """Remarks for the user, a line each."""
        dated = "strftime_now" in _without_comments(self.text)
        return [
            "the chat template writes the date of today: on another day this command makes another "
            "run. Write the date into a copy of it for --chat-template"
        ] * dated


def _without_comments(text: str) -> str:
    """A template without `{# #}`, in one pass: a pattern would try every `{#` to the end."""
    before, *parts = text.split("{#")
    return before + "".join(part.partition("#}")[2] for part in parts)


def choose_template(
    tokenizer: Any, file: str | None, conversations: Iterable[Conversation]
) -> ChatTemplate | None:
    """The template in `file`, or the tokenizer's own. None without conversations.

    Raises InputError if there is none, and for a file without a conversation to render.
    """
    conversations = list(conversations)
    if not conversations:
        if file is not None:
            raise InputError(
                f"--chat-template {file}: no chosen row has messages. Leave it out, or name their "
                "field with --text-field."
            )
        return None
    if file is not None:
        source, text = Path(file).name, _read(file)
    else:
        tools = next((c.tools for c in conversations if c.tools), None)
        try:  # of a tokenizer with several templates, the one for tools where there are some
            source, text = "model", str(tokenizer.get_chat_template(None, tools))
        except (AttributeError, ValueError):
            raise InputError(
                "the corpus has conversations, and the model's tokenizer has no chat template. "
                "Give one in Jinja with --chat-template FILE.",
                kind=ErrorKind.NOT_FOUND,
            ) from None
    # a tokenizer without a fast backend does not say which characters a token came from
    marked = _GENERATION.search(_without_comments(text)) and getattr(tokenizer, "is_fast", False)
    return ChatTemplate(text=text, source=source, mask="generation" if marked else "prefixes")


def rendered(
    tokenizer: Any,
    template: ChatTemplate,
    conversation: Conversation,
    *,
    turns: int | None = None,
    prompted: bool = False,
) -> str:
    """The text of the first `turns` messages, or all. prompted: with what the template writes
    before the assistant answers. Raises NoPromptError if the template raises anything, InputError
    if it takes too much time or memory.
    """
    messages = list(conversation.messages[:turns])
    with _rendering():
        text = tokenizer.apply_chat_template(
            messages,
            tools=list(conversation.tools) or None,
            chat_template=template.text,
            add_generation_prompt=prompted,
            tokenize=False,
        )
    return str(text)


def ids_and_mask(
    tokenizer: Any, template: ChatTemplate, conversation: Conversation, context: int
) -> tuple[list[int], list[bool]]:
    """(all ids of a conversation, whether each is the assistant's). Turns that begin after
    `context` tokens are not looked at.

    Raises NoPromptError, with the number of the message, for a conversation that cannot be split,
    and InputError for a template beyond a limit.
    """
    if template.mask == "generation":
        return _by_generation(tokenizer, template, conversation)

    def ids_of(turns: int | None, *, prompted: bool = False) -> list[int]:
        text = rendered(tokenizer, template, conversation, turns=turns, prompted=prompted)
        return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    ids = ids_of(None)
    mask = [False] * len(ids)
    whole = ids[:context]
    for index, message in enumerate(conversation.messages):
        if message["role"] != "assistant" or index == 0:  # nothing comes before the first message
            continue
        before = ids_of(index, prompted=True)[:context]
        if len(before) == context and before == whole:
            break
        after = ids_of(index + 1)[:context]
        start = _shared(before, after)
        if start < len(before):
            # a generation prompt may begin with what this answer lacks, such as empty reasoning:
            # then the answer begins where both differ, if the messages before it are the same
            history = ids_of(index)[:context]
            if start < len(history) or after[: len(history)] != history:
                raise _unstable(index, "what comes before it is rendered otherwise with it")
        if whole[: len(after)] != after:
            raise _unstable(index, "it is rendered otherwise once later messages follow")
        mask[start : len(after)] = [True] * (len(after) - start)
    return ids, mask


def _by_generation(
    tokenizer: Any, template: ChatTemplate, conversation: Conversation
) -> tuple[list[int], list[bool]]:
    with _rendering():
        encoded = tokenizer.apply_chat_template(
            list(conversation.messages),
            tools=list(conversation.tools) or None,
            chat_template=template.text,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
    mask = [bool(token) for token in encoded["assistant_masks"]]
    if not any(mask):
        raise NoPromptError(BAD_TEMPLATE, "the template marks no token of the assistant")
    return list(encoded["input_ids"]), mask


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of equal ids that both begin with."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((at for at, (x, y) in pairs if x != y), min(len(a), len(b)))


def _unstable(message: int, why: str) -> NoPromptError:
    return NoPromptError(
        BAD_TEMPLATE,
        f"the template cannot be split at message {message}: {why}. Give one with generation "
        "blocks or one that keeps the history, by --chat-template",
    )


@contextmanager
def _rendering() -> Iterator[None]:
    """Within it templates render in their own process. Raises NoPromptError in place of any error
    of a template, InputError for one that is beyond a limit.
    """
    try:
        with rendered_elsewhere():
            yield
    except LppError:  # beyond a limit
        raise
    except Exception as error:  # a template may raise any error
        raise _raised(error) from None


def _raised(error: Exception) -> NoPromptError:
    kind = error.kind if isinstance(error, TemplateRaisedError) else type(error).__name__
    what = f"the template raises {kind}: {first_line(error)}"
    return NoPromptError(BAD_TEMPLATE, what)


def _read(file: str) -> str:
    path = Path(file).expanduser()
    check_regular(path)
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise InputError(f"--chat-template {file}: cannot be read ({why}).") from None
