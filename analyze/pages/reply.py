"""The reply to a question: its page, and what a command does beside showing it."""

from dataclasses import dataclass, replace
from typing import Any

from lpp.analyze.pages.page import Page
from lpp.store.errors import LppError


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The answer to a question."""

    page: Page
    beside: str = ""
    """Lines for standard output where the page itself goes into a file."""
    failed: bool = False
    """Whether the exit code is 1."""
    error: LppError | None = None
    """The error to raise once the page is shown."""


def reply(page: Page, settings: Any, *, stored: object, **more: Any) -> Reply:
    """A reply with `page`, which answers a question with these settings; without next commands
    unless its numbers are stored in the database, from which those go on. more: fields of `Reply`.
    """
    next_commands = page.next if stored else ()
    return Reply(page=replace(page, settings=settings, next=next_commands), **more)
