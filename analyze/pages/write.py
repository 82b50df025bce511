"""The formats of a page."""

from lpp.analyze.pages.page import Page


def written(page: Page, form: str, *, everything: bool = False) -> str:
    """`page` in a format: text, md, html, json or csv.

    everything: whether text and Markdown show also what is not brief.

    Raises MachineError(NO_PACKAGE) for html without the extra `report`.
    """
    # each writer is imported when it is asked for: text loads rich, a browser's page jinja2
    if form == "text":
        from lpp.analyze.pages.terminal import as_text

        return as_text(page, everything=everything)
    if form == "md":
        from lpp.analyze.pages.markdown import as_markdown

        return as_markdown(page, everything=everything)
    if form == "html":
        from lpp.analyze.pages.html import as_html

        return as_html(page)
    from lpp.analyze.pages.data import as_csv, as_json

    if form == "json":
        return as_json(page)
    if form == "csv":
        return as_csv(next(iter(page.data.values())), parted_by=page.parted_by)
    raise ValueError(f"a page has no format {form!r}")
