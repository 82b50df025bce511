"""The report of a store: one page, pictures of its charts, or Markdown.

Its numbers come from the store's database, plans, checksums and token statistics; `queries` holds
every query.
"""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from lpp.sql.results.output import is_written_in_place, whole_file
from lpp.store.errors import ErrorKind, InputError
from lpp.store.progress import SILENT, Progress

if TYPE_CHECKING:
    from lpp.analyze.report.content import Report

Format = Literal["html", "png", "svg", "md"]

STEPS: Final = 5
"""Units of progress of one report."""


def write_report(
    url: str, output: Path, form: Format = "html", *, progress: Progress = SILENT
) -> list[Path]:
    """Write the report of the store at `url`; returns the files written.

    html, md: one file, `output`. png, svg: one picture per chart, `<output without its
    suffix>-<chart>.png`. A file appears only when it is complete.

    Raises InputError(READ_ONLY) for an output that cannot be written, before anything is read, and
    the errors of `report`.
    """
    from lpp.analyze.report.content import report

    check_output(output)
    found = report(url, output=output, progress=progress)
    written: list[Path] = []
    if form in ("html", "md"):
        with whole_file(output) as path:
            path.write_text(_text(found, form), encoding="utf-8")
        written.append(output)
    else:
        for section in found.sections:
            for chart in [chart for chart in section.charts if not chart.answer.missing]:
                picture = output.with_name(f"{output.stem}-{chart.name}.{form}")
                chart.write(picture)
                written.append(picture)
    progress.advance()
    progress.note(f"{len(written)} written")
    return written


def report_text(url: str, form: Format = "html", *, progress: Progress = SILENT) -> str:
    """The report of the store at `url` as one text: form html or md."""
    from lpp.analyze.report.content import report

    text = _text(report(url, progress=progress), form)
    progress.advance()
    return text


def check_output(output: Path) -> None:
    """Raise InputError(INVALID_VALUE or READ_ONLY) if `output` could not be written later."""
    if output.is_dir() or not output.parent.is_dir():
        why = "is a directory" if output.is_dir() else f"no such directory: {output.parent}"
        raise InputError(
            f"cannot write {output}: {why}. Name a file with -o.", kind=ErrorKind.INVALID_VALUE
        )
    if output.exists() and not os.access(output, os.W_OK):
        raise _unwritable(output, "no permission")
    if is_written_in_place(output):
        return
    try:
        # the file system may be read-only although the directory's mode permits writing
        with tempfile.NamedTemporaryFile(dir=output.parent, prefix=f".{output.name}~"):
            pass
    except OSError as error:
        raise _unwritable(output, error.strerror or str(error)) from error


def _unwritable(output: Path, why: str) -> InputError:
    return InputError(
        f"cannot write {output}: {why}. Name another file with -o.", kind=ErrorKind.READ_ONLY
    )


def _text(found: "Report", form: Format) -> str:
    if form == "md":
        from lpp.analyze.report.markdown import as_markdown

        return as_markdown(found)
    from lpp.analyze.report.html import as_html

    return as_html(found)
