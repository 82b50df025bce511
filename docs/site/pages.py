"""Hooks of mkdocs: pages that are generated or lie elsewhere, and links that work in both places.

Documents link to each other by their paths in the repository, so that links work in any viewer of
its files. A document that lies outside docs/ becomes a page by `ELSEWHERE`; links to it are turned
to the page. A link to a file without a page keeps its words alone: the site holds no source code.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import formulas
import glossary
import notebook
import reference
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT: Final = Path(__file__).resolve().parents[2]

ELSEWHERE: Final[Mapping[str, str]] = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "tests/README.md": "project/tests.md",
    "CHANGELOG.md": "project/changelog.md",
    "changes/0.3.0.md": "project/changes-0.3.0.md",
    "changes/older.md": "project/changes-older.md",
    "store/SPEC.md": "reference/store-format.md",
    **{f"{p}/README.md": f"project/{p}.md" for p in ("store", "capture", "analyze", "sql")},
    "benchmarks/README.md": "project/benchmarks.md",
    "benchmarks/LOG.md": "project/benchmark-log.md",
    "benchmarks/SCALING.md": "project/scaling.md",
    "benchmarks/peers/README.md": "project/peers.md",
    "benchmarks/detection/DETECTION.md": "project/detection.md",
    "benchmarks/detection/DOSES.md": "project/doses.md",
    "examples/first_capture.ipynb": "tutorial.md",
    "examples/compare_two_models.ipynb": "tutorial-compare.md",
    "examples/train_an_autoencoder.ipynb": "tutorial-autoencoder.md",
    "examples/distil_a_student.ipynb": "tutorial-student.md",
    "examples/train_a_draft.ipynb": "tutorial-draft.md",
    "examples/label_probes.ipynb": "tutorial-probes.md",
    "examples/published_tables.ipynb": "tutorial-published.md",
}
"""Page of each document outside docs/."""

GLOSSARY: Final = "glossary.md"

PICTURES: Final = ("benchmarks/detection/*.svg",)
"""Pictures of those documents; each is copied to `pictures/`."""

LINK = re.compile(r"(?P<before>!?\[(?:[^\]\[]|\[[^\]]*\])*\]\()(?P<target>[^)\s]+)(?P<after>\))")
FENCE = re.compile(r"^(?:```.*?^```|    [^\n]*)$", re.MULTILINE | re.DOTALL)


def on_config(config: Any) -> Any:
    """Links the site to the repository, once pyproject.toml says where that is."""
    if url := reference.address():
        config["repo_url"], config["repo_name"] = url, config["site_name"]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds every page that no file under docs/ holds."""
    for source, page in ELSEWHERE.items():
        path = ROOT / source
        if path.suffix == ".ipynb":
            text, pictures = notebook.as_markdown(path)
            for name, data in pictures.items():
                files.append(File.generated(config, f"pictures/{name}", content=data))
        else:
            text = path.read_text("utf-8")
        files.append(File.generated(config, page, content=text))
    for pattern in PICTURES:
        for path in ROOT.glob(pattern):
            name = f"pictures/{path.name}"
            files.append(File.generated(config, name, abs_src_path=str(path)))
    for page, text in reference.pages():
        files.append(File.generated(config, page, content=text))
    index = "\n".join(_index(config["nav"]))
    about = f"# {config['site_name']}\n\n> {config['site_description']}\n\n{index}\n"
    files.append(File.generated(config, "llms.txt", content=about))
    return files


def _index(entries: Any) -> Iterator[str]:
    """The pages of the navigation as Markdown: https://llmstxt.org."""
    for title, page in (pair for entry in entries for pair in entry.items()):
        if isinstance(page, str):
            yield f"- [{title}]({page.removesuffix('.md')}.html)"
        else:
            yield from (f"\n## {title}\n", *_index(page))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links between documents into links between pages, and links terms of the glossary."""
    here = page.file.src_uri
    sources = {made: source for source, made in ELSEWHERE.items()}
    source = sources.get(here, f"docs/{here}")
    text = "".join(
        piece if code else LINK.sub(lambda match: _link(match, source, here), _indented(piece))
        for code, piece in _pieces(markdown)
    )
    if here == GLOSSARY or here.startswith(("project/", "reference/")):
        return text
    terms = glossary.terms_of((ROOT / "docs" / GLOSSARY).read_text("utf-8"))
    return glossary.linked(text, terms, posixpath.relpath(GLOSSARY, posixpath.dirname(here) or "."))


def on_page_content(html: str, **_: Any) -> str:
    """Turns formulas into MathML."""
    return formulas.as_mathml(html)


def _pieces(markdown: str) -> Iterator[tuple[bool, str]]:
    """(whether it is code, text), in order."""
    end = 0
    for match in FENCE.finditer(markdown):
        yield False, markdown[end : match.start()]
        yield True, match[0]
        end = match.end()
    yield False, markdown[end:]


def _indented(piece: str) -> str:
    """What continues an item of a list, by four spaces and up to an empty line, as Markdown in
    Python has it.
    """
    piece = re.sub(r"^ {2,3}(?=\S)", "    ", piece, flags=re.MULTILINE)
    return re.sub(r"(\n\n(?: {4}[^\n]*\n)+)(?=- |\d+\. )", r"\1\n", piece)


def _link(match: re.Match[str], source: str, here: str) -> str:
    target, _, anchor = match["target"].partition("#")
    if not target or re.match(r"[a-z]+:", target):
        return match[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    if path.startswith("docs/"):
        page = path.removeprefix("docs/")
    elif path in ELSEWHERE:
        page = ELSEWHERE[path]
    elif path.endswith((".svg", ".png")):
        page = f"pictures/{posixpath.basename(path)}"
    elif (ROOT / path).exists():
        return match["before"].rstrip("](").lstrip("!")[1:]  # its words
    else:
        raise PluginError(f"{source}: there is no {target}")
    link = posixpath.relpath(page, posixpath.dirname(here) or ".")
    return f"{match['before']}{link}{'#' + anchor if anchor else ''}{match['after']}"
