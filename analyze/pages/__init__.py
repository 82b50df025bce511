"""The answer to a question as a page, and its four writers: terminal, Markdown, HTML, data."""
