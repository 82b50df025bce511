"""What the values of a setting are, by its type: what a file or Python may give, and the text of a
command line.

Types: bool, int, float, str, Literal of strings; Sequence or tuple of str (names, or several texts)
or of int (numbers); Mapping of str to Any or to str (`NAME=VALUE`, several).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, get_origin


class Values(Protocol):
    """The values of a setting."""

    def expected(self, value: object) -> str:
        """The type that a value should have, in words."""

    def fits(self, value: object) -> bool:
        """Whether the type of a value, as a file or Python gives it, is right."""

    def made(self, value: Any) -> Any:
        """The setting's value of one that `fits`. Raises ValueError, with a sentence."""

    def texts(self, value: Any) -> Sequence[str]:
        """The texts that stand for a value that `fits`, or for one that was `made`, on a command
        line; empty: the option is left out.
        """


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def expected(self, value: object) -> str:
        return "true or false"

    def fits(self, value: object) -> bool:
        return isinstance(value, bool)

    def made(self, value: Any) -> Any:
        return value

    def texts(self, value: Any) -> Sequence[str]:
        return [""] if value else []


@dataclass(frozen=True, slots=True)
class Number:
    """Whole numbers, or any."""

    whole: bool
    least: float | None = None
    most: float | None = None
    word: str = ""
    """May stand for a number; a text of a command line is then a number or the word."""

    def expected(self, value: object) -> str:
        return ("an integer" if self.whole else "a number") + f" or {self.word!r}" * bool(self.word)

    def fits(self, value: object) -> bool:
        if self.word and value == self.word:
            return True
        return type(value) is int or (type(value) is float and not self.whole)  # bool is an int too

    def made(self, value: Any) -> Any:
        if isinstance(value, str):
            if value == self.word:
                return value
            if not (value.isascii() and value.isdigit()):
                raise ValueError(f"{value!r} is not {self.expected(value)}.")
            value = int(value)
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number.")
        below = self.least is not None and value < self.least
        if below or (self.most is not None and value > self.most):
            raise ValueError(f"{value} is not in the range {self.range}.")
        return value if self.whole else float(value)

    @property
    def range(self) -> str:
        """Both bounds, such as `x>=1`."""
        if self.most is None:
            return f"x>={self.least}"
        return f"x<={self.most}" if self.least is None else f"{self.least}<=x<={self.most}"

    def texts(self, value: Any) -> Sequence[str]:
        return [str(value)]


@dataclass(frozen=True, slots=True)
class Text:
    """A text, one of `choices` if there are any."""

    choices: tuple[str, ...] = ()

    def expected(self, value: object) -> str:
        return "a string"

    def fits(self, value: object) -> bool:
        return isinstance(value, str)

    def made(self, value: Any) -> Any:
        if self.choices and value not in self.choices:
            raise ValueError(f"{value!r} is not one of {', '.join(map(repr, self.choices))}.")
        return value

    def texts(self, value: Any) -> Sequence[str]:
        return [value]


@dataclass(frozen=True, slots=True)
class Names:
    """Several names: a list, or a text in which commas separate them."""

    def expected(self, value: object) -> str:
        return "a list of strings" if isinstance(value, list | tuple) else "a string"

    def fits(self, value: object) -> bool:
        if isinstance(value, list | tuple):
            return all(isinstance(item, str) for item in value)
        return isinstance(value, str)

    def made(self, value: Any) -> tuple[str, ...]:
        text = value if isinstance(value, str) else ",".join(value)
        names = tuple(part.strip() for part in text.split(",") if part.strip())
        if isinstance(value, str) and not names:
            raise ValueError(f"{value!r} names nothing")
        return names

    def texts(self, value: Any) -> Sequence[str]:
        return [value if isinstance(value, str) else ",".join(value)]


@dataclass(frozen=True, slots=True)
class Numbers:
    """Several whole numbers: a list, or a text in which commas separate them. word: may stand for
    a number.
    """

    word: str = ""

    def expected(self, value: object) -> str:
        return "a list of whole numbers"

    def fits(self, value: object) -> bool:
        if isinstance(value, list | tuple):
            return all(type(item) is int or (self.word and item == self.word) for item in value)
        return isinstance(value, str)

    def made(self, value: Any) -> tuple[int | str, ...]:
        if not isinstance(value, str):
            return tuple(value)
        parts = [part.strip() for part in value.split(",")]
        if not all(p == self.word or (p.isascii() and p.isdigit()) for p in parts):
            more = f" or {self.word}" if self.word else ""
            raise ValueError(f"{value!r} is not a list of whole numbers such as 50,100{more}")
        return tuple(part if part == self.word else int(part) for part in parts)

    def texts(self, value: Any) -> Sequence[str]:
        return [value if isinstance(value, str) else ",".join(map(str, value))]


@dataclass(frozen=True, slots=True)
class Texts:
    """Several texts: a list. choices: all that there are; without, any."""

    choices: tuple[str, ...] = ()

    def expected(self, value: object) -> str:
        return "a list of strings"

    def fits(self, value: object) -> bool:
        return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)

    def made(self, value: Any) -> tuple[str, ...]:
        return tuple(Text(self.choices).made(text) for text in value)

    def texts(self, value: Any) -> Sequence[str]:
        return tuple(value)


@dataclass(frozen=True, slots=True)
class Assignments:
    """Values by name: a mapping, or texts `NAME=VALUE`, whose value is JSON or else a text.

    texts_alone: every value is a text, and a name may be any text, with `=` too. metavar: what one
    looks like, for a message.
    """

    texts_alone: bool = False
    metavar: str = "NAME=VALUE"

    def expected(self, value: object) -> str:
        return "a list of strings" if isinstance(value, list | tuple) else "a string"

    def fits(self, value: object) -> bool:
        if isinstance(value, Mapping):
            parts = (*value, *(value.values() if self.texts_alone else ()))
            return all(isinstance(part, str) for part in parts)
        return Names().fits(value)

    def made(self, value: Any) -> dict[str, Any]:
        return dict(map(self._read, self.texts(value)))

    def _read(self, text: str) -> tuple[str, Any]:
        if self.texts_alone:
            name, _, written = text.rpartition("=")
            if name and written:
                return name, written
        else:
            name, equals, written = text.partition("=")
            if equals and name.isidentifier():
                try:
                    return name, json.loads(written)
                except ValueError:
                    return name, written
        raise ValueError(f"{text!r} is not {self.metavar}")

    def texts(self, value: Any) -> Sequence[str]:
        if isinstance(value, Mapping):
            return [f"{n}={v if isinstance(v, str) else json.dumps(v)}" for n, v in value.items()]
        return [value] if isinstance(value, str) else list(value)


def values_of(
    hint: Any,
    *,
    bounds: tuple[float | None, float | None] = (None, None),
    repeated: bool = False,
    word: str = "",
    metavar: str | None = None,
) -> Values:
    """The values of a type; bounds, repeated, word and metavar as of `Setting`. TypeError for a
    type that no setting has.
    """
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Literal:
        return Text(inside)
    if hint in (int, float) or (word and int in inside and origin not in (tuple, Sequence)):
        return Number(hint is not float, *bounds, word)
    if hint in (bool, str):
        return Flag() if hint is bool else Text()
    if origin in (tuple, Sequence):
        if inside[0] is int:
            return Numbers(word)
        choices = get_args(inside[0])
        if choices or inside[0] is str:
            return Texts(choices) if choices or repeated else Names()
    if origin is not None and issubclass(origin, Mapping):
        return Assignments(inside[1] is str, metavar or "NAME=VALUE")
    raise TypeError(f"no setting is of the type {hint}")
