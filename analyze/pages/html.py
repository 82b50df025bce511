"""A page for a browser that loads nothing: no network, no other file.

Names of models and corpora are untrusted. Text goes through `escape` and Jinja's autoescape, JSON
through `embedded`, and page.js escapes what it shows as `escape` does. The page's policy allows
only scripts with the hashes that it lists: even if a name became markup, it would not run.
"""

import base64
import hashlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any, Final

from lpp.analyze.charts.run_styles import RunStyle
from lpp.analyze.pages.page import Page, Panels
from lpp.analyze.pages.table import FIRST_ROWS, Table
from lpp.analyze.pages.words import Sentence, plain
from lpp.store.terminal.escaping import escape

OPEN_ROWS: Final = 25
"""Tables with more rows are folded, so that the page stays readable."""

SENTENCES: Final = 4
"""Sentences in a paragraph."""


def as_html(page: Page) -> str:
    """The whole page. Raises MachineError(NO_PACKAGE) without the extra `report`."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    template = environment.from_string(_file("page.html.j2"))
    from markupsafe import Markup

    from lpp.analyze.charts.export import begin_script, chart_script, embedded

    begin_script()  # beside the charts
    specifications = {chart.name: chart.specifications() for chart in page.charts}
    scripts = [_script(chart_script()), _script(_file("page.js"))]
    tables = [table for table in page.tables if table.missing is None]
    return template.render(
        page=page,
        about=plain(page.about),
        run=_style_of(page),
        first=[chart for chart in page.charts if chart.opens],
        section_names=[section.name for section in page.sections],
        panels=specifications,
        paragraphs=list(paragraphs((*page.findings, *page.further))),
        store=shlex.quote(page.store),
        first_rows=FIRST_ROWS,
        open_rows=OPEN_ROWS,
        policy=_policy(scripts),
        css=Markup(_file("page.css")),  # written by this project, like the scripts
        scripts=[Markup(script) for script in scripts],
        data=Markup(embedded(_data(page, tables, specifications))),
    )


def _shown(value: Any) -> Any:
    """A text with its control characters and direction marks as codes; markup is unchanged."""
    return escape(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def paragraphs(sentences: Sequence[Sentence]) -> Iterator[Sequence[Sentence]]:
    """Sentences, a few at a time."""
    for first in range(0, len(sentences), SENTENCES):
        yield sentences[first : first + SENTENCES]


def _style_of(page: Page) -> Callable[[str], RunStyle | None]:
    """A function that returns the style of a run; None for a run without a plan on the page."""
    return {run: page.runs[run] for run in page.runs.order}.get


def _data(
    page: Page, tables: Sequence[Table], specifications: Mapping[str, Panels]
) -> dict[str, Any]:
    """Data for the page's script: every table in full, and every chart's specification."""
    return {
        "runs": [
            {"id": run, "letter": style.letter, "name": style.name, "color": style.color}
            for run, style in ((run, page.runs[run]) for run in page.runs.order)
        ],
        "command": f"lpp-sql {shlex.quote(page.store)} -",
        "tables": {table.name: table.data() for table in tables},
        "charts": specifications,
    }


def _file(name: str) -> str:
    return resources.files("lpp.analyze.pages").joinpath(name).read_text("utf-8")


def _script(text: str) -> str:
    """A script as it may be put in a page: an end tag can occur only in its strings."""
    return text.replace("</script", "<\\/script")


def _policy(scripts: Sequence[str]) -> str:
    """The policy: no network, and only the page's own scripts. Vega writes style attributes."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
