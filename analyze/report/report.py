"""The report of a store: one page, pictures of its charts, or Markdown.

Its numbers come from the store's database, plans, checksums and token statistics; `queries` holds
every query.
"""

from pathlib import Path
from typing import Final, Literal

from lpp.analyze.pages.output import check_output
from lpp.analyze.pages.write import written
from lpp.sql.results.output import whole_file
from lpp.store.progress import SILENT, Progress
from lpp.store.settings.arguments import check_word

Format = Literal["html", "png", "svg", "md"]

STEPS: Final = 5
"""Units of progress of one report."""


def write_report(
    url: str,
    output: Path,
    form: Format = "html",
    *,
    against: str | None = None,
    progress: Progress = SILENT,
) -> list[Path]:
    """Write the report of the store at `url`; returns the files written.

    html, md: one file, `output`. png, svg: one picture per chart, `<output without its
    suffix>-<chart>.png`. A file appears only when it is complete. against: as of `report`.

    Raises InputError(READ_ONLY) for an output that cannot be written, before anything is read, and
    the errors of `report`.
    """
    from lpp.analyze.report.content import report

    check_word("form", form, Format)
    check_output(output)
    page = report(url, against=against, progress=progress)
    files: list[Path] = []
    if form in ("html", "md"):
        with whole_file(output) as path:
            path.write_text(written(page, form), encoding="utf-8")
        files.append(output)
    else:
        for chart in page.charts:
            picture = output.with_name(f"{output.stem}-{chart.name}.{form}")
            chart.write(picture)
            files.append(picture)
    progress.advance()
    progress.note(f"{len(files)} written")
    return files


def report_text(
    url: str,
    form: Format = "html",
    *,
    against: str | None = None,
    progress: Progress = SILENT,
) -> str:
    """The report of the store at `url` as one text: form html or md. against: as of `report`."""
    from lpp.analyze.report.content import report

    text = written(report(url, against=against, progress=progress), form)
    progress.advance()
    return text
