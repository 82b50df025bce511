"""The section of `diff` on items of both runs, until `diff` is a page."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from lpp.analyze.charts.run_styles import RunStyles
from lpp.analyze.evaluations.flips import Flips
from lpp.analyze.evaluations.flips_page import flips_section, item_documents, styles_of_both
from lpp.analyze.pages.page import Opening, Page
from lpp.analyze.pages.write import written

__all__ = ["SECTIONS", "item_documents"]


def _section(form: str, items: Sequence[Flips | str]) -> str:
    if not items:
        return ""
    compared = (one for one in items if not isinstance(one, str))
    runs = next(map(styles_of_both, compared), RunStyles({}))
    sections = tuple(flips_section(one, place) for place, one in enumerate(items))
    return written(Page(title="Items", opening=Opening(()), sections=sections, runs=runs), form)


SECTIONS: Final[Mapping[str, Callable[[Sequence[Flips | str]], str]]] = {
    form: partial(_section, form) for form in ("text", "md")
}
