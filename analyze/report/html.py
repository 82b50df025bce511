"""The report as one page that loads nothing: no network, no other file.

Names of models and corpora are untrusted. Text goes through `escape` and Jinja's autoescape, JSON
through `embedded`, and report.js escapes what it shows as `escape` does. The page's policy allows
only scripts with the hashes that it lists: even if a name became markup, it would not run.
"""

import base64
import hashlib
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any, Final

from lpp.analyze.charts.run_styles import RunStyle
from lpp.analyze.report.answers import Answer
from lpp.analyze.report.charts import ChartView, Panels
from lpp.analyze.report.content import Report
from lpp.analyze.report.queries import PLANS
from lpp.analyze.report.tables import FIRST_ROWS, TableView
from lpp.analyze.report.words import Sentence, plain
from lpp.store.commands.escaping import escape

OPEN_ROWS: Final = 25
"""Tables with more rows are folded, so that the page stays readable."""

SENTENCES: Final = 4
"""Sentences in a paragraph."""


def as_html(report: Report) -> str:
    """The whole page."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    template = environment.from_string(_file("report.html.j2"))
    from markupsafe import Markup

    from lpp.analyze.charts.charts import chart_script, embedded

    specifications = {
        chart.name: chart.specifications()
        for section in report.sections
        for chart in section.charts
    }
    scripts = [_script(chart_script()), _script(_file("report.js"))]
    views = {a.query.name: TableView(a) for a in _answers(report) if a.missing is None}
    return template.render(
        report=report,
        about=plain(report.about),
        run=_style_of(report),
        first=_first_charts(report),
        section_names=[section.name for section in report.sections],
        views=views,
        panels=specifications,
        paragraphs=list(paragraphs(report.findings)),
        store=shlex.quote(report.store),
        plans=PLANS,
        first_rows=FIRST_ROWS,
        open_rows=OPEN_ROWS,
        policy=_policy(scripts),
        css=Markup(_file("report.css")),  # written by this project, like the scripts
        scripts=[Markup(script) for script in scripts],
        data=Markup(embedded(_data(report, views, specifications))),
    )


def _shown(value: Any) -> Any:
    """A text with its control characters and direction marks as codes; markup is unchanged."""
    return escape(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def paragraphs(sentences: Sequence[Sentence]) -> Iterator[Sequence[Sentence]]:
    """Sentences, a few at a time."""
    for first in range(0, len(sentences), SENTENCES):
        yield sentences[first : first + SENTENCES]


def _style_of(report: Report) -> Callable[[str], RunStyle | None]:
    """A function that returns the style of a run; None for a run without a plan in the report."""
    known = {run: report.styles[run] for run in report.styles.order}
    return known.get


def _first_charts(report: Report) -> list[ChartView]:
    """Charts of the first screen, which are left out of their section: the picture of depth."""
    every = (chart for section in report.sections for chart in section.charts)
    return [chart for chart in every if chart.name == "depth"] if report.summary else []


def _answers(report: Report) -> Iterator[Answer]:
    for section in report.sections:
        yield from section.answers


def _data(
    report: Report, views: Mapping[str, TableView], specifications: Mapping[str, Panels]
) -> dict[str, Any]:
    """Data for the page's script: every table in full, and every chart's specification."""
    from lpp.analyze.charts.rows import chart_label

    return {
        "runs": [
            {
                **{"id": run, "letter": style.letter, "name": style.name, "color": style.color},
                "label": chart_label(style),
            }
            for run, style in ((run, report.styles[run]) for run in report.styles.order)
        ],
        "command": f"lpp-sql {shlex.quote(report.store)} -",
        "tables": {name: view.data() for name, view in views.items()},
        "charts": specifications,
    }


def _file(name: str) -> str:
    return resources.files("lpp.analyze.report").joinpath(name).read_text("utf-8")


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
