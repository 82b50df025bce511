"""Links to the glossary: the first use of each of its terms on a page."""

import re
from collections.abc import Mapping
from typing import Final

ALSO_OTHER_WORDS: Final = frozenset(
    {"branch", "capture", "flag", "gate", "head", "item", "profile", "run", "site", "store"}
)
"""Terms that are verbs and other things too: linked after an article only, as in "a run"."""

_ARTICLE: Final = r"\b(?:[Aa]n?|[Tt]he|[Ee]ach|[Ee]very|[Oo]ne|[Tt]his|[Aa]nother) \*{0,2}"
_KEPT: Final = "|".join(
    (
        r"^```[\s\S]*?^```",
        r"^    .*$",  # indented code
        r"^#.*$",
        r"`+[^`]*`+",
        r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\([^)\s]+\)",
        r"\$[^$]+\$",
        r"<[a-zA-Z/!][^>]*>",
    )
)
_HEADING: Final = re.compile(r"^## (.+)$", re.MULTILINE)
_OTHERWISE: Final = re.compile(r"<!-- other meaning here: (.+) -->")


def terms_of(glossary: str) -> dict[str, str]:
    """The anchor of each term of the glossary page, by the term."""
    return {term: re.sub(r"\s+", "-", term.lower()) for term in _HEADING.findall(glossary)}


def linked(markdown: str, anchors: Mapping[str, str], page: str) -> str:
    """The text with the first use of each term as a link to `page`.

    Code, headings, links, formulas and HTML stay as they are, and so do the terms of a mark
    `<!-- other meaning here: prefix, context -->`. anchors: as `terms_of` gives them.

    >>> linked("`prefix` of a prefix, a prefix", {"prefix": "prefix"}, "glossary.md")
    '`prefix` of a [prefix](glossary.md#prefix), a prefix'
    """
    terms = [(term, re.compile(_inflected(term))) for term in anchors]
    other = {term for mark in _OTHERWISE.findall(markdown) for term in mark.split(", ")}
    unused = {term: anchor for term, anchor in anchors.items() if term not in other}

    def link(match: re.Match[str]) -> str:
        words = match["noun"] or match["term"]
        if words is None:
            return match[0]
        anchor = unused.pop(next(term for term, form in terms if form.fullmatch(words)), None)
        return f"{match[0].removesuffix(words)}[{words}]({page}#{anchor})" if anchor else match[0]

    nouns, others = (_any_of(anchors, also) for also in (True, False))
    pattern = rf"{_KEPT}|{_ARTICLE}(?P<noun>{nouns})(?!\w)|\b(?P<term>{others})(?!\w)"
    return re.compile(pattern, re.MULTILINE).sub(link, markdown)


def _any_of(anchors: Mapping[str, str], also_other_words: bool) -> str:
    terms = [term for term in anchors if (term in ALSO_OTHER_WORDS) == also_other_words]
    return "|".join(map(_inflected, sorted(terms, key=len, reverse=True))) or r"(?!)"


def _inflected(term: str) -> str:
    """A term, perhaps with a capital or in the plural."""
    first = f"[{term[0].upper()}{term[0]}]" if term[0].islower() else term[0]
    return f"{first}{re.escape(term[1:])}(?:s|es)?"
