"""Reference pages, made of what is declared: commands, public names, tables, metrics.

Tables of metrics and of the database are committed, so that the repository has them too:
`make tables` writes them into docs/, and a test fails if they differ from the code. The pages of
commands and of Python are made when the site is built.
"""

import importlib
import inspect
import re
import tomllib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any, Final, cast

import click

from benchmarks import marked
from benchmarks.card_results import results_table
from benchmarks.marked import table
from docs.site import formulas
from lpp.analyze.declared import RESULTS
from lpp.analyze.quantities.quantity import Quantity, capital
from lpp.analyze.questions import (
    CkaSettings,
    CorrelateSettings,
    DiffSettings,
    GateSettings,
    ItemsSettings,
    LabelProbeSettings,
    LayersSettings,
    ProbeGateSettings,
    ProbeTestSettings,
    ProfileSettings,
    PublishSettings,
    ScoreSettings,
    TargetSettings,
)
from lpp.capture.evaluation.request import EvalSettings
from lpp.capture.models.known import known_models
from lpp.capture.plan.settings import CaptureSettings
from lpp.sql.schema import NUMBERS, TABLES, VIEWS
from lpp.sql.schema.columns import Column
from lpp.sql.schema.results import RESULTS_FILE, results_json
from lpp.store.exchange.projects import conventions_rows
from lpp.store.settings.setting import Declared, declared

DOCS: Final = Path(__file__).resolve().parents[1]

WITH_TABLES: Final = (
    *("metrics.md", "reference/sql-tables.md"),
    *("how-to/draft-models.md", "how-to/many-cards.md", "models.md"),
)
"""Pages of docs/ that hold generated tables, between marks."""

BREAK: Final = "<br>"
"""A new line within a cell."""

MODULES = re.compile(
    r"\b(?:lpp|collections|pathlib|os|typing|numpy|polars|pyarrow)(?:\.[a-z_]+)*\."
)
"""Where a type comes from: left out, as its name says enough."""

GROUPS: Final = {
    "paper": ("participation_ratio", "effective_rank", "top_share"),
    "resistant": ("zscore_", "robust_", "top1_column", "top5_column"),
}


def pages() -> Iterator[tuple[str, str]]:
    """(page, Markdown) of every reference page."""
    for package in ("capture", "analyze", "sql"):
        yield f"reference/lpp-{package}.md", _command_page(package)
    yield "reference/settings.md", _settings_page()
    yield "reference/python.md", _python_page()


def with_tables(markdown: str) -> str:
    """A page with its generated tables made again."""
    conventions = table(("name", "files", "layers", "last state"), conventions_rows())
    tables = {**_metric_tables(), "sql": _sql_tables(), "conventions": conventions}
    tables["cards"] = results_table()
    tables["models"] = _models_table()
    return marked.filled(markdown, {name: partial(str, text) for name, text in tables.items()})


def _models_table() -> str:
    """How many classes have each status, and a row for each class."""
    models = known_models()
    counts = Counter(row["status"] for row in models)
    said = ", ".join(f"{n} {status}" for status, n in counts.most_common())
    rows = [
        (
            f"`{row['class']}`",
            f"`{row['model_type']}`",
            row["status"],
            row["why"] or f"error below {row['error_below']}",
        )
        for row in models
    ]
    release = models[0]["transformers"]
    return f"transformers {release}: {said}.\n\n" + _table(
        ("class", "`model_type`", "status", "largest error, or reason"), rows
    )


def write_tables() -> None:
    """Write the declarations that `lpp.sql` reads, and the tables of the pages that hold them."""
    RESULTS_FILE.write_text(results_json(RESULTS), "utf-8")
    for path in map(DOCS.joinpath, WITH_TABLES):
        path.write_text(with_tables(path.read_text("utf-8")), "utf-8")
    for path in map(DOCS.parent.joinpath, WITH_ADDRESS):
        path.write_text(with_address(path.name, path.read_text("utf-8"), address()), "utf-8")


WITH_ADDRESS: Final = ("README.md", "CITATION.cff")
"""Files that say where the project lies."""


def address() -> str | None:
    """`Repository` under [project.urls] of pyproject.toml: the one setting; None while unset."""
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text("utf-8"))["project"]
    return cast("str | None", project["urls"].get("Repository"))


def with_address(name: str, text: str, url: str | None) -> str:
    """One of `WITH_ADDRESS` with `url` as the project's address; None: without one."""
    if name == "README.md":
        clone = f"git clone {url or '<address of this repository>'}"
        return re.sub(r"(?m)^git clone .+(?= lpp-engine && )", lambda _: clone, text)
    line = f"repository-code: {url}\n" if url else ""
    return re.sub(r"(?m)^(?:repository-code: .*\n)?(?=version: )", lambda _: line, text, count=1)


SETTINGS: Final = {
    "lpp-capture run": CaptureSettings,
    "lpp-capture eval": EvalSettings,
    "lpp-analyze profile": ProfileSettings,
    "lpp-analyze layers": LayersSettings,
    "lpp-analyze cka": CkaSettings,
    "lpp-analyze diff": DiffSettings,
    "lpp-analyze diff --fail-if": GateSettings,
    "lpp-analyze export --targets": TargetSettings,
    "lpp-analyze publish": PublishSettings,
    "lpp-analyze items": ItemsSettings,
    "lpp-analyze probe": LabelProbeSettings,
    "lpp-analyze probe --against, --test-on": ProbeTestSettings,
    "lpp-analyze probe --fail-if": ProbeGateSettings,
    "lpp-analyze benchmarks add": ScoreSettings,
    "lpp-analyze correlate": CorrelateSettings,
}
"""The settings of each command that has some."""


def _settings_page() -> str:
    parts = [
        "# Settings",
        "Each setting is declared once. Its name is the option of the command, or in "
        "capitals an argument. With "
        "underscores, or as it stands below it, it is the argument of `lpp.capture.capture` and "
        "the field of the settings that a function of `lpp.analyze` takes.",
    ]
    for command, settings in SETTINGS.items():
        rows = [
            (_named(one), _default(one), one.setting.help) for one in declared(settings).values()
        ]
        heads = ("name", "default", "what it does")
        parts += [f"## {command}", f"`{settings.__name__}`", _table(heads, rows)]
    return "\n\n".join(parts) + "\n"


def _named(one: Declared) -> str:
    """Its name, and its keyword where that is another word."""
    same = one.keyword == one.name.replace("-", "_")
    return f"`{one.name}`" if same else f"`{one.name}`{BREAK}`{one.keyword}`"


def _default(one: Declared) -> str:
    """The default as a command line has it; empty: none."""
    if one.default is None or one.default is False or one.default in ((), {}):
        return ""
    return f"`{','.join(one.values.texts(one.default))}`"


def _command_page(package: str) -> str:
    name = f"lpp-{package}"
    command = importlib.import_module(f"lpp.{package}.cli.command").main
    parts = [f"# {name}", f"What `{name} --help` prints."]
    if isinstance(command, click.Group):
        parts.append(_help(command, name))
        for word, child in command.commands.items():
            parts += [f"## {name} {word}", _help(child, f"{name} {word}")]
            if isinstance(child, click.Group):
                for more, grandchild in child.commands.items():
                    title = f"{name} {word} {more}"
                    parts += [f"### {title}", _help(grandchild, title)]
    else:
        parts.append(_help(command, name))
    return "\n\n".join(parts) + "\n"


def _help(command: click.Command, name: str) -> str:
    # the command's own names of the help option: click keeps those of the first context
    settings = {**command.context_settings, "max_content_width": 80}
    context = click.Context(command, info_name=name, terminal_width=80, **settings)
    return f"```text\n{command.get_help(context).rstrip()}\n```"


def _python_page() -> str:
    parts = [
        "# Python",
        "The public names of the four packages, of the feed and of the teacher, with their "
        "docstrings. Import them from the package: `from lpp.analyze import diff`.",
    ]
    for package in ("capture", "store", "store.feed", "store.teacher", "analyze", "sql"):
        module = importlib.import_module(f"lpp.{package}")
        parts += [f"## lpp.{package}", inspect.getdoc(module) or ""]
        for name in sorted(module.__all__):
            parts.append(_documented(package, name, getattr(module, name)))
    return "\n\n".join(parts) + "\n"


def _documented(package: str, name: str, found: Any) -> str:
    heading = f"### {package}.{name}"
    if isinstance(found, Mapping):
        return f"{heading}\n\nA mapping, by name: {', '.join(f'`{key}`' for key in found)}."
    if not callable(found):
        columns = ", ".join(f"`{column.name}`" for column in found.columns)
        return f"{heading}\n\nThe declaration of the view `{found.name}`: {columns}."
    signature = _signature(name, found)
    text = (inspect.getdoc(found) or "").replace("  # doctest: +SKIP", "")
    members = ""
    if inspect.isclass(found):
        members = "".join(
            f"\n\n**`.{word}`** {_first(inspect.getdoc(member) or '')}"
            for word, member in vars(found).items()
            if not word.startswith("_") and (callable(member) or isinstance(member, property))
            if inspect.getdoc(member)
        )
    code = f"```python\n{signature}\n```\n\n``` {{.text .docstring}}\n{text}\n```"
    return f"{heading}\n\n{code}{members}"


def _first(docstring: str) -> str:
    """Its first paragraph, as Markdown."""
    return _cell(" ".join(docstring.partition("\n\n")[0].split()))


def _signature(name: str, found: Any) -> str:
    """Of a function or class, a parameter a line where it is long, types without their modules."""
    declared = inspect.signature(found)
    returns = declared.return_annotation
    words = [str(parameter) for parameter in declared.parameters.values()]
    kinds = [parameter.kind for parameter in declared.parameters.values()]
    if inspect.Parameter.KEYWORD_ONLY in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds:
        words.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    if inspect.Parameter.POSITIONAL_ONLY in kinds:
        words.insert(kinds.count(inspect.Parameter.POSITIONAL_ONLY), "/")
    end = ")"
    if not inspect.isclass(found) and returns is not inspect.Signature.empty:
        end = f") -> {inspect.formatannotation(returns)}"
    line = f"{name}({', '.join(words)}{end}"
    if len(line) > 90:
        line = f"{name}(\n" + "".join(f"    {word},\n" for word in words) + end
    return MODULES.sub("", line).replace("<factory>", "...").replace("~", "")


def _sql_tables() -> str:
    """Every table and view of the database, with its columns.

    What several tables share stands once, in the first two sections; a table names its own.
    """
    results = {table.name: table for table in RESULTS}  # TABLES has those of the file
    every = (*(TABLES | results).values(), NUMBERS, *VIEWS)
    uses = Counter(column for shown in every for column in shown.columns)
    commonest = {column.name: column for column, _ in reversed(uses.most_common())}
    shared = {c for c in commonest.values() if uses[c] > 1 and not _of_error(c)}
    parts = [
        "## Shared columns",
        _columns_table(column for column in uses if column in shared),
        "## Errors",
        "A number `x` may have three more columns, of its type and unit:",
        _table(("column", "meaning"), [(f"`x_{part}`", words) for part, words in ERRORS.items()]),
    ]
    for shown in every:
        key = ", ".join(f"`{word}`" for word in shown.key)
        view = " (a view)" if shown in (NUMBERS, *VIEWS) else ""
        own = [c for c in shown.columns if c not in shared and not _of_error(c)]
        parts.append(
            f"## {shown.name}\n\n"
            f"{capital(shown.meaning)}{view}. Key: {key}. Filled by `{shown.filled_by}`."
        )
        if names := _names(shared, shown.columns):
            parts.append(f"Shared columns: {names}.")
        errors: dict[str, list[str]] = {}
        for column in filter(_of_error, shown.columns):
            errors.setdefault(column.number, []).append(f"`_{column.part}`")
        alike = groupby(sorted(errors, key=errors.__getitem__), errors.__getitem__)
        parts += [
            f"Errors ({', '.join(ends)}): {', '.join(f'`{number}`' for number in numbers)}."
            for ends, numbers in alike
        ]
        parts += [_columns_table(own)] if own else []
    return "\n\n".join(parts)


ERRORS: Final[Mapping[str, str]] = {
    "stderr": "standard error over prompts; null: not computed",
    "ci_low": "lower end of its 95 % interval",
    "ci_high": "upper end of its 95 % interval",
}
"""By part of a number: what the columns of an error mean, if they mean nothing more."""


def _of_error(column: Column) -> bool:
    """Whether name and meaning follow from the number that the column is an error of."""
    named = column.part is not None and column.name == f"{column.number}_{column.part}"
    return named and ERRORS.get(str(column.part)) == column.meaning


def _names(shared: Collection[Column], columns: Iterable[Column]) -> str:
    return ", ".join(f"`{column.name}`" for column in columns if column in shared)


def _columns_table(columns: Iterable[Column]) -> str:
    rows = [(f"`{c.name}`", ", ".join(filter(None, (c.type, c.unit))), c.meaning) for c in columns]
    return _table(("column", "type, unit", "meaning"), rows)


def _metric_tables() -> dict[str, str]:
    """By name: what is declared, with unit, formula, trap and source; the flags as a table."""
    from lpp.analyze import METRICS
    from lpp.analyze.quantities.drift import PREDICTIONS, SITE_CHANGES
    from lpp.analyze.quantities.items import FEATURES
    from lpp.analyze.quantities.probes import PROBE_CHANGES, PROBE_NUMBERS
    from lpp.analyze.report.content import FLAGS

    lists: dict[str, list[Quantity]] = {"paper": [], "resistant": []}
    for metric in METRICS.values():
        group = next(
            (g for g, begins in GROUPS.items() if metric.name.startswith(begins)), metric.needs
        )
        group = "spectral" if group in ("scatter", "eigenvalues") else group
        if group == "resistant" and metric.name.endswith("_norm"):
            continue  # said in a sentence
        lists.setdefault(group, []).append(metric)
    lists["drift"] = [*PREDICTIONS.values(), *SITE_CHANGES.values()]
    lists["features"] = [*FEATURES]
    lists["probes"] = [*PROBE_NUMBERS.values(), *PROBE_CHANGES.values()]
    marks: dict[tuple[str, str], list[str]] = {}
    for of, meanings in FLAGS.items():
        for flag, meaning in meanings.items():
            marks.setdefault((f"`{flag}`", meaning), []).append(of)
    rows = [(flag, ", ".join(sorted(of)), meaning) for (flag, meaning), of in sorted(marks.items())]
    flags = _table(("flag", "of", "warning"), rows)
    return {"flags": flags, **{name: "\n".join(map(_entry, of)) for name, of in lists.items()}}


def _entry(quantity: Quantity) -> str:
    """A number as an item of a list: unit, definition, the trap in italics, the source."""
    meaning, trap, source = map(
        _cell, (_formulas(quantity.meaning), quantity.trap, quantity.source)
    )
    cited = "" if quantity.source == "this project" else f"{with_links(source)}."
    sentences = (f"{meaning}.", trap and f"*{trap}*", cited)
    return f"- **`{quantity.name}`** ({quantity.unit}): {' '.join(filter(None, sentences))}"


ARXIV: Final = re.compile(r"(?:(?P<work>[^;\s][^;]*), )?arXiv (?P<number>\d{4}\.\d{4,5})")
"""A paper of a source: its authors, if they are named, and its number."""


def with_links(source: str) -> str:
    """A source whose papers of arXiv are links.

    >>> with_links("Men et al. 2024, arXiv 2403.03853")
    '[Men et al. 2024](https://arxiv.org/abs/2403.03853)'
    """
    return ARXIV.sub(
        lambda paper: (
            f"[{paper['work'] or 'arXiv ' + paper['number']}](https://arxiv.org/abs/{paper['number']})"
        ),
        source,
    )


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return table(heads, [[_cell(cell) for cell in row] for row in rows])


def _formulas(definition: str) -> str:
    """With its formulas as mathematics."""
    return "".join(f"${text}$" if tex else text for tex, text in formulas.pieces(definition))


def _cell(text: str) -> str:
    """Without what Markdown would read: a bar ends a cell, stars and underscores set type.

    What stands between backticks is code, in which a bar alone is read; between dollars TeX.
    """
    if "$" in text:
        parts = re.split(r"(\$[^$]+\$)", text)
        return "".join(part if part.startswith("$") else _cell(part) for part in parts)
    words, codes = text.split("`")[::2], text.split("`")[1::2]
    plain = [re.sub(r"([|*_])", r"\\\1", word).replace("<", "&lt;") for word in words]
    plain = [word.replace("&lt;br>", BREAK) for word in plain]
    marked = [f"`{code}`".replace("|", r"\|") for code in codes]
    return "".join(piece for pair in zip_longest(plain, marked, fillvalue="") for piece in pair)


if __name__ == "__main__":
    write_tables()
