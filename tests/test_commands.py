"""Every command of the three programs has help with an example, within 80 columns."""

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner


def commands() -> Iterator[tuple[str, click.Command]]:
    """(words to type, command) of every command, groups included."""
    from lpp.analyze.cli import main as analyze
    from lpp.capture.cli import main as capture
    from lpp.sql.cli import main as sql

    for name, command in (("lpp-analyze", analyze), ("lpp-capture", capture), ("lpp-sql", sql)):
        yield from below(name, command)


def below(words: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """A command and, of a group, all of its commands."""
    yield words, command
    if isinstance(command, click.Group):
        for word, inner in sorted(command.commands.items()):
            yield from below(f"{words} {word}", inner)


COMMANDS = dict(commands())


@pytest.mark.parametrize(
    "words", [w for w, c in COMMANDS.items() if not isinstance(c, click.Group)]
)
def test_help_shows_an_example_and_describes_every_option(words: str) -> None:
    command = COMMANDS[words]
    text = help_text(command)
    assert words.split(maxsplit=1)[0] in text.partition("Options:")[0].partition("\n\n")[2], (
        "no example"
    )
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not isinstance(parameter.type, click.Choice):
            assert parameter.help, f"{words} {parameter.opts[-1]} is not described"


@pytest.mark.parametrize("words", COMMANDS)
def test_help_fits_eighty_columns(words: str) -> None:
    assert [line for line in help_text(COMMANDS[words]).splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("words", COMMANDS)
def test_a_typo_is_one_message_and_exit_code_two(words: str) -> None:
    result = CliRunner().invoke(COMMANDS[words], ["--no-such-option"])
    assert result.exit_code == 2
    assert "No such option" in result.output
    assert "Traceback" not in result.output


def help_text(command: click.Command) -> str:
    """What `--help` prints on a terminal of 80 columns."""
    result = CliRunner(env={"COLUMNS": "80"}).invoke(command, ["--help"], terminal_width=80)
    assert result.exit_code == 0, result.output
    return result.output
