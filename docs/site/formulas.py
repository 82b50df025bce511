"""Formulas: the words of a definition that are set as mathematics, and MathML made of TeX.

Definitions are plain text, for terminals. A page has the formulas in them as `$TeX$`, which GitHub
sets; the site has MathML, which browsers set without a script or a font from elsewhere.
"""

import html
import re
from collections.abc import Iterator
from typing import Final

FORMULAS: Final = {
    "(sum lambda)^2 / sum lambda^2": r"\frac{(\sum \lambda)^2}{\sum \lambda^2}",
    "exp(-sum pi ln pi), pi = lambda / sum lambda": (
        r"\exp(-\sum \pi \ln \pi),\ \pi = \frac{\lambda}{\sum \lambda}"
    ),
    "-sum pi ln pi, pi = lambda / sum lambda": (
        r"-\sum \pi \ln \pi,\ \pi = \frac{\lambda}{\sum \lambda}"
    ),
    "-ln sum pi^2, pi = lambda / sum lambda": (
        r"-\ln \sum \pi^2,\ \pi = \frac{\lambda}{\sum \lambda}"
    ),
    "min(N, d)": r"\min(N, d)",
    "largest lambda / sum lambda": r"\frac{\lambda_1}{\sum \lambda}",
    "|mu| / |sigma|": r"\lVert \mu \rVert / \lVert \sigma \rVert",
    "sum lambda / largest lambda: ||X||_F^2 / ||X||_2^2": (
        r"\frac{\sum \lambda}{\lambda_1} = \frac{\lVert X \rVert_F^2}{\lVert X \rVert_2^2}"
    ),
    "exp(-sum p ln p), p = s / sum s, s = sqrt(lambda)": (
        r"\exp(-\sum p \ln p),\ p = \frac{s}{\sum s},\ s = \sqrt{\lambda}"
    ),
    "lambda_i ~ i^-alpha": r"\lambda_i \sim i^{-\alpha}",
    "ln lambda_i on ln i": r"\ln \lambda_i \text{ on } \ln i",
    "lambda_i": r"\lambda_i",
    "min(100, r / 2)": r"\min(100, r / 2)",
    "R^2": "R^2",
    "X^T X / (N - 1)": r"\frac{X^T X}{N - 1}",
    "-ln(1 - F(mu)) on ln mu": r"-\ln(1 - F(\mu)) \text{ on } \ln \mu",
    "x_(t+1) - x_t": "x_{t+1} - x_t",
    "x_(t+2) - x_(t+1)": "x_{t+2} - x_{t+1}",
    "t + 2 < L": "t + 2 < L",
    "Z^T Z / n": "Z^T Z / n",
    "|x_p|": r"\lVert x_p \rVert",
    "|x|": r"\lVert x \rVert",
    "first_position <= p < L": r"\text{first position} \le p < L",
    "-ln p(next token)": r"-\ln p(\text{next token})",
    "(ln p(next token) - mu) / sigma, mu = sum p ln p": (
        r"\frac{\ln p(\text{next token}) - \mu}{\sigma},\ \mu = \sum p \ln p"
    ),
    "ln p(next token)": r"\ln p(\text{next token})",
    "ln p(1st) - ln p(2nd)": r"\ln p(\text{1st}) - \ln p(\text{2nd})",
    "sum p (ln p)^2 - (sum p ln p)^2": r"\sum p (\ln p)^2 - \left(\sum p \ln p\right)^2",
    "sum over bins of n_b / n |accuracy_b - mean confidence_b|": (
        r"\sum_b \frac{n_b}{n} \lvert \text{accuracy}_b - \overline{\text{confidence}}_b \rvert"
    ),
    "k / 15 < confidence <= (k + 1) / 15": r"k / 15 < \text{confidence} \le (k + 1) / 15",
    "floor(n / 5)": r"\lfloor n / 5 \rfloor",
    "sum of min(rank, 100) / sum of -ln p(next token)": (
        r"\frac{\sum \min(\text{rank}, 100)}{\sum -\ln p(\text{next token})}"
    ),
    "sigma = sqrt(varentropy)": r"\sigma = \sqrt{\text{varentropy}}",
    "KL(A || B): sum p ln(p / q)": r"\mathrm{KL}(A \Vert B) = \sum p \ln \frac{p}{q}",
    "KL(B || A): sum q ln(q / p)": r"\mathrm{KL}(B \Vert A) = \sum q \ln \frac{q}{p}",
    "(KL(p || m) + KL(q || m)) / 2, m = (p + q) / 2": (
        r"\frac{\mathrm{KL}(p \Vert m) + \mathrm{KL}(q \Vert m)}{2},\ m = \frac{p + q}{2}"
    ),
    "sum |p - q| / 2": r"\frac{1}{2} \sum \lvert p - q \rvert",
    "ln PPL(B) - ln PPL(A)": r"\ln \mathrm{PPL}(B) - \ln \mathrm{PPL}(A)",
    "|b - a| / |a|": r"\frac{\lVert b - a \rVert}{\lVert a \rVert}",
    "||X^T Y||^2 / (||X^T X|| ||Y^T Y||)": (
        r"\frac{\lVert X^T Y \rVert^2}{\lVert X^T X \rVert \lVert Y^T Y \rVert}"
    ),
    "||U_A^T U_B||_F^2 / k": r"\frac{1}{k} \lVert U_A^T U_B \rVert_F^2",
    "n_b / n": r"\frac{n_b}{n}",
}
"""TeX of a formula, by the words of the definitions that it is set for."""

NEXT: Final = r",\ "
"""Between two formulas of an entry."""

_WORDS: Final = re.compile("|".join(map(re.escape, sorted(FORMULAS, key=len, reverse=True))))
_SET: Final = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?P<kind>[(\[])(?P<tex>.*?)\\[)\]]</(?P=tag)>',
    re.DOTALL,
)


def pieces(definition: str) -> Iterator[tuple[bool, str]]:
    """(whether it is TeX, text), in order.

    >>> list(pieces("participation_ratio / min(N, d)"))
    [(False, 'participation_ratio / '), (True, '\\\\min(N, d)')]
    """
    end = 0
    for match in _WORDS.finditer(definition):
        if before := definition[end : match.start()]:
            yield False, before
        for place, formula in enumerate(FORMULAS[match[0]].split(NEXT)):
            if place:
                yield False, ", "  # a line may end here
            yield True, formula
        end = match.end()
    if rest := definition[end:]:
        yield False, rest


def as_mathml(page: str) -> str:
    """The HTML of a page, the formulas that pymdownx.arithmatex left in it as MathML."""
    return _SET.sub(_mathml, page)


def _mathml(match: re.Match[str]) -> str:
    from latex2mathml.converter import convert

    display = "inline" if match["kind"] == "(" else "block"
    tex = html.unescape(match["tex"]).strip()
    # MathML has no space around the name of a function, which TeX sets
    return str(convert(tex.replace(r"\ln ", r"\,\ln\,"), display=display))
