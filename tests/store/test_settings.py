"""Settings: what a value may be, in Python, a file and a command line, by its declared type."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner

from lpp.analyze import questions
from lpp.analyze.cli.command import main as analyze
from lpp.capture.cli.command import main as capture
from lpp.capture.evaluation.request import EvalSettings
from lpp.capture.plan.settings import CaptureSettings
from lpp.store.settings.command_line import arguments
from lpp.store.settings.reading import made, problems_of
from lpp.store.settings.setting import declared, setting
from lpp.store.terminal.options import taken, with_options

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A setting of each type."""

    flag: bool = setting(False, "Flag.")
    whole: int = setting(3, "Whole.", least=1, most=9)
    share: float | None = setting(None, "Share.", least=0, most=1)
    word: str | None = setting(None, "Word.", metavar="WORD")
    choice: Literal["a", "b"] = setting("a", "Choice.")
    names: tuple[str, ...] = setting(("x", "y"), "Names.", name="name")
    runs: Sequence[str] = setting(("*",), "Runs.", name="RUN", positional=True)
    numbers: Sequence[int] | None = setting(None, "Numbers.", name="number")
    positions: Sequence[int] = setting((0,), "Positions.", word="given")
    texts: Sequence[str] = setting((), "Texts.", name="text", repeated=True)
    words: tuple[Literal["a", "b"], ...] = setting((), "Words.")
    values: Mapping[str, Any] = setting({}, "Values.", name="value")
    matches: Mapping[str, str] = setting({}, "Matches.", name="match")


GIVEN: list[tuple[str, object, object, list[str]]] = [
    ("flag", True, True, ["--flag"]),
    ("whole", 4, 4, ["--whole=4"]),
    ("share", 1, 1.0, ["--share=1"]),
    ("word", "w", "w", ["--word=w"]),
    ("choice", "b", "b", ["--choice=b"]),
    ("name", ["p", "q"], ("p", "q"), ["--name=p,q"]),
    ("name", "p, q", ("p", "q"), ["--name=p, q"]),
    ("RUN", ["p", "q, r"], ("p", "q, r"), ["p", "q, r"]),
    ("number", [5, 6], (5, 6), ["--number=5,6"]),
    ("positions", [0, "given"], (0, "given"), ["--positions=0,given"]),
    ("text", ["a, b", "c"], ("a, b", "c"), ["--text=a, b", "--text=c"]),
    ("words", ["b", "a"], ("b", "a"), ["--words=b", "--words=a"]),
    ("value", {"n": 1, "s": "t"}, {"n": 1, "s": "t"}, ["--value=n=1", "--value=s=t"]),
    ("match", {"a=b c": "1"}, {"a=b c": "1"}, ["--match=a=b c=1"]),
]


@pytest.mark.parametrize(("name", "value", "expected", "words"), GIVEN)
def test_a_value_is_the_same_by_every_road(
    name: str, value: object, expected: object, words: list[str]
) -> None:
    one = declared(Example)[name]
    assert list(problems_of(one, value, name)) == []
    assert getattr(made(Example, {name: value}), one.keyword) == expected
    assert list(arguments(Example, {name: value})) == words
    assert made(Example, {name: expected}) == made(Example, {name: value})
    assert getattr(by_command(*words), one.keyword) == expected


def by_command(*words: str) -> Example:
    found: list[Example] = []

    @click.command()
    @with_options(Example)
    def command(**options: Any) -> None:
        found.append(taken(Example, options))

    result = CliRunner().invoke(command, words)
    assert result.exit_code == 0, result.output
    return found[0]


def test_defaults_are_those_of_the_fields() -> None:
    assert by_command() == Example() == made(Example, {})


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("flag", 1, "at should be true or false, is 1"),
        ("whole", True, "at should be an integer, is True"),
        ("whole", 2.5, "at should be an integer, is 2.5"),
        ("whole", 10, "at: 10 is not in the range 1<=x<=9."),
        ("share", "1", "at should be a number, is '1'"),
        ("share", -1, "at: -1 is not in the range 0<=x<=1."),
        ("word", 1, "at should be a string, is 1"),
        ("choice", "c", "at: 'c' is not one of 'a', 'b'."),
        ("name", [1], "at should be a list of strings, is [1]"),
        ("name", " ,", "at: ' ,' names nothing"),
        ("number", [1, "given"], "at should be a list of whole numbers, is [1, 'given']"),
        ("number", [True], "at should be a list of whole numbers, is [True]"),
        ("number", "1,given", "at: '1,given' is not a list of whole numbers such as 50,100"),
        ("positions", "x", "at: 'x' is not a list of whole numbers such as 50,100 or given"),
        ("text", "a", "at should be a list of strings, is 'a'"),
        ("value", ["a"], "at: 'a' is not NAME=VALUE"),
        ("match", ["a="], "at: 'a=' is not NAME=VALUE"),
        ("match", ["=a"], "at: '=a' is not NAME=VALUE"),
    ],
)
def test_a_wrong_value_has_one_sentence(name: str, value: object, problem: str) -> None:
    assert list(problems_of(declared(Example)[name], value, "at")) == [problem]


def test_a_type_that_no_setting_has_is_refused() -> None:
    @dataclass(frozen=True)
    class Wrong:
        """Bytes are no setting."""

        data: bytes = setting(b"", "Data.")

    with pytest.raises(TypeError, match="no setting is of the type"):
        declared(Wrong)


ALL = [
    CaptureSettings,
    EvalSettings,
    *(one for name, one in vars(questions).items() if name.endswith("Settings")),
]


@pytest.mark.parametrize("settings", ALL, ids=lambda one: one.__name__)
def test_every_field_is_a_setting_that_says_what_it_does(settings: type) -> None:
    known = declared(settings)
    assert {one.keyword for one in known.values()} == {one.name for one in fields(settings)}
    assert len(known) == len(fields(settings))  # no name twice
    for one in known.values():
        assert one.setting.help[0].isupper(), one.name
        assert one.setting.help.endswith("."), one.name
        if one.default is not None:
            assert list(problems_of(one, one.default, one.name)) == []


def test_no_setting_is_declared_twice() -> None:
    """An option that settings make is written in no command, and no text of help stands twice."""
    made_by_settings = {
        (command.name, option.opts[0])
        for group in (analyze, capture)
        for command in group.commands.values()
        for option in command.params
        if isinstance(option, click.Option) and option.help in texts()
    }
    assert len(made_by_settings) > 70
    written = {
        (path.stem, word.value)
        for room in ("analyze", "capture")
        for path in (ROOT / room / "cli").glob("*.py")
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("option")
        for word in ast.walk(call)
        if isinstance(word, ast.Constant) and isinstance(word.value, str)
    }
    assert ("profile", "store") not in written
    assert ("items", "--task") in written
    assert made_by_settings & written == set()
    assert texts() & {text for _, text in written} == set()


def texts() -> set[str]:
    """The help of every setting."""
    return {one.setting.help for settings in ALL for one in declared(settings).values()}


def test_a_list_of_names_without_one_is_refused_as_a_mistake() -> None:
    words = ["benchmarks", "add", "lpp", "scores.csv", "--model", " ,"]
    done = CliRunner().invoke(analyze, words)
    assert done.exit_code == 2
    assert "Invalid value for '--model': ' ,' names nothing" in done.output
