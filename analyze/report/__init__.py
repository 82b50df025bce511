"""The database as one page, as Markdown, or as pictures."""
