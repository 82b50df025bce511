"""The formats of a page."""

from collections.abc import Callable, Mapping
from typing import Final

from lpp.analyze.pages.page import Page


def written(page: Page, form: str, *, everything: bool = False) -> str:
    """`page` in a format: text, md, html, json or csv.

    everything: whether text and Markdown show also what is not brief.

    Raises MachineError(NO_PACKAGE) for html without the extra `report`.
    """
    return _WRITERS[form](page, everything)


def _text(page: Page, everything: bool) -> str:
    from lpp.analyze.pages.terminal import as_text

    return as_text(page, everything=everything)


def _md(page: Page, everything: bool) -> str:
    from lpp.analyze.pages.markdown import as_markdown

    return as_markdown(page, everything=everything)


def _html(page: Page, _everything: bool) -> str:
    from lpp.analyze.pages.html import as_html

    return as_html(page)


def _json(page: Page, _everything: bool) -> str:
    from lpp.analyze.pages.data import as_json

    return as_json(page.document)


def _csv(page: Page, _everything: bool) -> str:
    from lpp.analyze.pages.data import as_csv

    return as_csv(page.csv, parted_by=page.parted_by)


_WRITERS: Final[Mapping[str, Callable[[Page, bool], str]]] = {
    "text": _text,
    "md": _md,
    "html": _html,
    "json": _json,
    "csv": _csv,
}
