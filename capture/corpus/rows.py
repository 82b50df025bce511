"""What a row of a corpus is: a text, a conversation or token ids.

The value of the row's field says which: a string, a list of messages or a list of integers. Many
data sets hold a list as a string of its JSON: in the fields `messages` and `input_ids` a string is
always that, and in others than `text` it is where it holds messages. A row whose value is none of
these, or is incomplete, is set aside, and the others go on.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from lpp.capture.corpus.fields import TOOLS
from lpp.capture.corpus.passages import Conversation, GivenTokens, NoPromptError, Passage, Refused

DEFAULT_FIELDS: Final = ("text", "messages", "input_ids")
"""A row's field is the first of these that the corpus has, unless the user names one."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that is invalid."""

    reason: str
    """`not_utf8`, or `no_text` for half a surrogate pair."""
    detail: str


Value: TypeAlias = str | list[Any] | Unreadable | None
"""What a row has in its field; None for nothing."""


def default_field(names: Iterable[str]) -> str:
    """The field of rows that have the fields `names`.

    >>> default_field(["id", "messages"]), default_field(["content"])
    ('messages', 'text')
    """
    there = {*names}
    return next((name for name in DEFAULT_FIELDS if name in there), DEFAULT_FIELDS[0])


def is_list_of_rows(value: object) -> bool:
    """Whether `value` is a list of integers or of messages, as far as its first entry tells."""
    return isinstance(value, list) and (not value or type(value[0]) is int or _is_object(value[0]))


def passage_of(
    row: int, value: Value, fields: Mapping[str, object], place: str, refused: Refused
) -> Passage | None:
    """The passage of a row. None for a row that can be none: `refused` then has the reason.

    value: of its field, after `as_list`.
    """
    value = encodable(value, place)
    if isinstance(value, Unreadable):
        refused.add(row, value.reason, value.detail)
    elif not value or (isinstance(value, str) and value.isspace()):
        refused.add(row, "empty", place)
    elif isinstance(value, str):
        return Passage(row, value, fields, place)
    elif all(type(token) is int for token in value):
        given = GivenTokens(ids=tuple(value))
        return Passage(row, " ".join(map(str, value)), fields, place, given=given)
    else:
        try:
            conversation = conversation_of(value, fields.get(TOOLS))
        except NoPromptError as error:
            refused.add(row, error.reason, f"{place}: {error}")
            return None
        text = _canonical(conversation)
        return Passage(row, text, fields, place, conversation=conversation)
    return None


def as_list(field: str, text: Value, place: str) -> Value:
    """The list whose JSON the string `text` is, where `field` may hold that; Unreadable where it
    must and does not; else `text`.
    """
    if not isinstance(text, str) or not text.strip() or field == DEFAULT_FIELDS[0]:
        return text
    try:
        value = json.loads(text) if text.lstrip().startswith("[") else None
    except (ValueError, RecursionError):
        value = None
    if field in DEFAULT_FIELDS:
        if is_list_of_rows(value):
            return value
        what = f"{place}: field {field!r} is a string, and not the JSON of a list of"
        if field == "messages":
            return Unreadable("no_conversation", f"{what} messages")
        return Unreadable("bad_tokens", f"{what} token ids")
    messages = isinstance(value, list) and all(_is_object(m) and "role" in m for m in value)
    return value if messages else text


def encodable(text: Value, place: str) -> Value:
    r"""`text` if UTF-8 can encode it; JSON's `\ud800` alone is a string that it cannot. Any other
    value as it is.
    """
    if not isinstance(text, str):
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        where = f"half a surrogate pair at character {error.start}"
        return Unreadable("no_text", f"{place}: {where}")
    return text


def conversation_of(messages: Sequence[object], tools: Any = None) -> Conversation:
    """The conversation in a row. tools: a list of objects, or its JSON.

    A message's fields that are null are left out, and its content is then empty; arguments of a
    call of a tool that are JSON become the object, which templates expect. Raises NoPromptError,
    with the message's number, for what is no conversation of text with a turn of the assistant.
    """
    turns = [_turn(number, message) for number, message in enumerate(messages)]
    if not any(turn["role"] == "assistant" for turn in turns):
        raise _refusal("no message of the assistant")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools) if tools.strip() else None
        except (ValueError, RecursionError):
            raise _refusal("field 'tools' is neither a list nor the JSON of one") from None
    if not isinstance(tools or [], list) or not all(map(_is_object, tools or [])):
        raise _refusal("field 'tools' is not a list of objects")
    conversation = Conversation(messages=turns, tools=tools or ())
    try:
        _canonical(conversation).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:  # a date, half a surrogate pair
        raise _refusal(f"not JSON in UTF-8 ({error})") from None
    return conversation


def _turn(number: int, message: object) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise _refusal(f"message {number} is not an object with role and content")
    fields = {name: value for name, value in message.items() if value is not None}
    role, content = fields.pop("role", None), fields.pop("content", "")
    if not isinstance(role, str) or not role:
        raise _refusal(f"message {number} has no role")
    parts = content if isinstance(content, list) else []
    if not isinstance(content, str | list) or any(
        not _is_object(part) or part.get("type") != "text" for part in parts
    ):
        raise _refusal(f"the content of message {number} is not text")
    if calls := fields.get("tool_calls"):
        fields["tool_calls"] = [_with_arguments(call) for call in calls]
    return {"role": role, "content": content, **fields}


def _with_arguments(call: Any) -> Any:
    """A call of a tool with its arguments as an object."""
    if not _is_object(call):
        return call
    if "function" in call:
        return {**call, "function": _with_arguments(call["function"])}
    try:
        arguments = json.loads(call["arguments"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return call
    return {**call, "arguments": arguments} if _is_object(arguments) else call


def _refusal(detail: str) -> NoPromptError:
    return NoPromptError("no_conversation", detail)


def _canonical(conversation: Conversation) -> str:
    """JSON of messages and tools, keys in the order given: a template may write it as it is."""
    document = {"messages": conversation.messages}
    if conversation.tools:
        document["tools"] = conversation.tools
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)
