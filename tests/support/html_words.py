"""What a reader sees of a page."""

from html.parser import HTMLParser


class Words(HTMLParser):
    """The text of a page, without its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: set[str] = set()
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)


def html_words(text: str) -> tuple[str, set[str]]:
    """The words of a page, and its tags."""
    reader = Words()
    reader.feed(text)
    return " ".join(" ".join(reader.words).split()), reader.tags
