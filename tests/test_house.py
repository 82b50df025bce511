"""The house: which package may import which, and that starting a light module stays light."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from imports import ROOT, imports, module_name, within
from rooms import exceeded

MAY_IMPORT = {
    "store": set(),
    "sql": {"store"},
    "capture": {"store", "sql"},
    "analyze": {"store", "sql"},
}
"""Arrows point one way."""

ONLY_IN = {
    "torch": {
        *("analyze/logits/products.py", "capture"),
        *("store/feed/output.py", "store/feed/torch_*.py", "store/teacher/torch_*.py"),
        "store/exchange/speculators_backend.py",
    },
    "accelerate": {"capture"},
    "altair": {"analyze/charts/theme.py"},
    "bitsandbytes": {"capture"},
    "datasets": {"capture", "store/exchange/speculators_backend.py"},
    "gguf": {"capture"},
    "huggingface_hub": {"capture"},
    "lm_eval": {"capture/evaluation/*.py", "capture/evaluation/tasks/*.py"},
    "obstore": {"store/objects/bucket*.py"},
    "peft": {"capture/models/adapter.py"},
    "ray": {"analyze/engine/ray_executor.py", "capture/ray/*.py", "store/process/cluster.py"},
    "safetensors": {"capture"},
    "transformers": {
        "capture/corpus/template_process.py",
        "capture/backends/torch_passes.py",
        "capture/models/load.py",
        "capture/models/model_files.py",
    },
    "vl_convert": {"analyze/charts/theme.py"},
    "vllm": {"capture/backends/vllm/*.py"},
}
"""Where a heavy package may be imported: a CPU box that analyses installs none of these."""

LIGHT = (
    "lpp.store.errors",
    "lpp.store.terminal.console",
    "lpp.store.terminal.entry",
    "lpp.store.terminal.progress",
    "lpp.store.format.keys",
)
HEAVY = (
    "zarr",
    "pyarrow",
    "polars",
    "numpy",
    "torch",
    "transformers",
    "rich",
    "duckdb",
    "xxhash",
    "altair",
    "obstore",
    "ray",
)


def modules() -> list[Path]:
    return sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def wrong_arrows(package: str, path: Path) -> list[str]:
    """Every import of `path`, a module of `package`, that the house does not allow."""
    wrong = []
    for name, line in imports(path):
        top, _, rest = name.partition(".")
        ours = rest.split(".")[0] if top == "lpp" else None
        if ours is not None and ours not in {package, *MAY_IMPORT[package]}:
            wrong.append(f"{path.name}:{line}: {package} may not import {name}")
        if top in MAY_IMPORT:
            wrong.append(f"{path.name}:{line}: {name} is called lpp.{name}")
        allowed = ONLY_IN.get(top)
        if allowed is not None and not any(
            path.match(place) or place == package for place in allowed
        ):
            wrong.append(f"{path.name}:{line}: only {sorted(allowed)} may import {top}")
    return wrong


SPEAK = ("studies/pages", "drift/pages", "drift/gate/gate_page", "evaluations/pages", "probes/page")
"""Beginnings of the modules of `analyze` that say results."""

MAY_SAY = (
    *("pages", "charts", "quantities", "questions", "metrics.registry", "drift.gate"),
    "runs.named",
    "numerics.statistics.association.benjamini_hochberg",  # q over the rows that a page compares
)
"""What they import of `analyze` beside each other and modules that declare tables."""


def wrong_words(path: Path, inside: str) -> list[str]:
    """Every import of a computation by a page: it gets rows of tables, the report's or a command's,
    so that both say the same.
    """
    wrong = []
    for name, line in imports(path):
        part = name.removeprefix("lpp.analyze.")
        allowed = part.startswith((*MAY_SAY, *(start.replace("/", ".") for start in SPEAK)))
        if part != name and not allowed and not re.search("tables?(\\.|$)", part):
            wrong.append(f"{inside}:{line}: {name}")
    return wrong


def test_a_page_imports_no_computation() -> None:
    folder = ROOT / "analyze"
    pages = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*.py")}
    wrong = [
        line
        for inside, path in sorted(pages.items())
        if inside.startswith(SPEAK)
        for line in wrong_words(path, inside)
    ]
    assert wrong == []


ROOMS = {
    "analyze": (
        *(
            "questions",
            "numerics",
            "runs",
            "quantities",
            "metrics",
            "engine",
            "logits",
            "scores",
            "tables",
            "exports",
        ),
        *(
            "charts",
            "pages",
            "studies",
            "drift",
            "evaluations",
            "probes",
            "report",
            "publish",
            "quickstart",
            "cli",
            "",
        ),
    ),
    "capture": (
        *("downloads", "corpus", "models", "plan", "backends", "engine", "ray"),
        *("synthetic", "evaluation", "cli", ""),
    ),
    "sql": ("place", "schema", "confinement", "queries", "database", "results", "cli", ""),
    "store": (
        *("errors", "progress", "units", "uncertainty", "draws", "settings", "process", "format"),
        *("objects", "arrays", "committed", "shared", "runs", "scores", "feed", "teacher"),
        *("terminal", "root", "store", "row_sink", "exchange", ""),
    ),
}
"""Rooms of a package from the ground up, "" for its own modules: each imports those before it."""


def graph(package: str) -> dict[str, set[str]]:
    """Every module of `package` and those of it that it imports, lazily and for types included.

    The package's own `__init__` is its door: it may name everything.
    """
    known = {module_name(path): path for path in (ROOT / package).rglob("*.py")}
    door = f"lpp.{package}"
    return {
        name: {m for target, _ in imports(path) if (m := within(target, known)) not in (name, door)}
        & known.keys()
        for name, path in known.items()
        if name != door
    }


def room_of(name: str, rooms: tuple[str, ...]) -> int:
    part = name.split(".")[2]
    return rooms.index(part) if part in rooms else rooms.index("")


def upward(modules: dict[str, set[str]], rooms: tuple[str, ...]) -> list[str]:
    """Every import from a room into one above it."""
    return [
        f"{name} -> {target}"
        for name, targets in sorted(modules.items())
        for target in sorted(targets)
        if room_of(target, rooms) > room_of(name, rooms)
    ]


def named_rooms(package: str) -> list[str]:
    """Folders and files in the layout table of the README of `package`."""
    text = (ROOT / package / "README.md").read_text("utf-8")
    table = text.partition("| folder | contents |\n|---|---|\n")[2].partition("\n\n")[0]
    return [
        name
        for line in table.splitlines()
        for name in re.findall(r"`([a-z_]+(?:/|\.py))`", line.split("|")[1])
    ]


@pytest.mark.parametrize("package", sorted(ROOMS))
def test_the_readme_has_every_room_in_order_and_every_module(package: str) -> None:
    named = named_rooms(package)
    folder = ROOT / package
    modules = [path.name for path in folder.glob("*.py") if not path.name.startswith("__")]
    rooms = [f"{r}.py" if f"{r}.py" in modules else f"{r}/" for r in ROOMS[package] if r]
    assert named[: len(rooms)] == rooms
    assert sorted(named[len(rooms) :]) == sorted({*modules} - {*rooms})


def test_the_steps_through_analyze_name_what_exists() -> None:
    text = (ROOT / "analyze" / "README.md").read_text("utf-8").partition("## Layout\n")[2]
    steps = text.partition("\n1. ")[2]
    source = "\n".join(path.read_text("utf-8") for path in modules())
    defined = {*re.findall(r"\b(?:def|class) (\w+)", source), *(path.stem for path in modules())}
    named = set(re.findall(r"`([\w.]+)`", steps))
    assert len(named) > 15
    unknown = {name for name in named if name.rpartition(".")[2] not in defined}
    assert unknown == {"profiles.duckdb"}  # a file


def circle(modules: dict[str, set[str]]) -> set[str]:
    """Modules that import each other, or that lie between such; empty where there are none."""
    left = {name: set(targets) for name, targets in modules.items()}
    while free := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in free:
            del left[name]
    return set(left)


@pytest.mark.slow
@pytest.mark.parametrize("package", sorted(ROOMS))
def test_a_room_imports_only_rooms_below_it(package: str) -> None:
    assert upward(graph(package), ROOMS[package]) == []


@pytest.mark.slow
@pytest.mark.parametrize("package", sorted(ROOMS))
def test_no_modules_import_each_other(package: str) -> None:
    assert circle(graph(package)) == set()


def test_no_library_of_capture_reaches_the_terminal() -> None:
    """But for `capture()`, which shows what it does in a notebook."""
    reached = {
        module_name(path)
        for path in (ROOT / "capture").rglob("*.py")
        for name, _ in imports(path)
        if name.startswith(("lpp.store.terminal", "click"))
    }
    library = {name for name in reached if ".cli." not in name and not name.endswith("__main__")}
    assert library == {"lpp.capture.from_python"}


@pytest.mark.slow
def test_only_commands_of_analyze_reach_the_terminal() -> None:
    doors = {"lpp.analyze.__main__", *(name for name in graph("analyze") if ".cli" in name)}
    reached = {
        (module_name(path), name)
        for path in (ROOT / "analyze").rglob("*.py")
        for name, _ in imports(path)
        if name.startswith(("lpp.store.terminal", "click", "sys.stdout", "sys.stderr"))
    }
    outside = {name for module, name in reached if module not in doors}
    assert outside <= {"lpp.store.terminal.escaping.escape"}
    assert {module for module, _ in reached} & doors


def test_an_arrow_upwards_and_a_circle_would_be_seen() -> None:
    modules = {
        "lpp.store.format.a": {"lpp.store.runs.read"},
        "lpp.store.runs.read": {"lpp.store.format.b", "lpp.store.runs.verify"},
        "lpp.store.runs.verify": {"lpp.store.runs.read"},
        "lpp.store.format.b": set(),
    }
    assert upward(modules, ROOMS["store"]) == ["lpp.store.format.a -> lpp.store.runs.read"]
    assert {"lpp.store.runs.read", "lpp.store.runs.verify"} <= circle(modules)
    assert "lpp.store.format.b" not in circle(modules)


def test_there_are_modules_to_read() -> None:
    assert len(modules()) > 15


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_arrows_point_one_way(package: str) -> None:
    paths = sorted((ROOT / package).rglob("*.py"))
    assert [line for path in paths for line in wrong_arrows(package, path)] == []


@pytest.mark.parametrize(
    ("package", "file", "text", "n"),
    [
        ("store", "x.py", "import lpp.sql.connect", 1),
        ("store", "x.py", "def f():\n    from lpp.capture import plan", 1),
        ("sql", "x.py", "from lpp.store import open_store\nimport lpp.sql.schema", 0),
        ("sql", "x.py", "from lpp.analyze.tables.lazy import scan", 1),
        ("sql", "x.py", "import importlib\nimportlib.import_module('torch')", 1),
        ("capture", "x.py", "import torch.nn\nfrom lpp.store import Plan", 0),
        ("capture", "x.py", "from transformers import AutoModel", 1),
        ("capture", "models/load.py", "from transformers import AutoModel", 0),
        ("capture", "models/load.py", "import vllm", 1),
        ("capture", "backends/vllm/worker.py", "import vllm", 0),
        ("capture", "x.py", "import lpp.sql\nimport lpp.analyze", 1),
        ("analyze", "x.py", "import torch\nimport store\nfrom lpp import capture", 3),
    ],
)
def test_wrong_arrow_would_be_seen(
    tmp_path: Path, package: str, file: str, text: str, n: int
) -> None:
    path = tmp_path / package / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert len(wrong_arrows(package, path)) == n


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_package_refuses_another_name(package: str) -> None:
    done = python(f"import {package}", cwd=ROOT)
    assert done.returncode == 1
    assert f"ImportError: import this package as lpp.{package}, not as {package}" in done.stderr


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_package_starts_light(package: str) -> None:
    assert loaded(f"lpp.{package}") == []


@pytest.mark.parametrize("module", LIGHT)
def test_light_module_starts_light(module: str) -> None:
    assert loaded(module) == []


def test_no_room_outgrows_its_number() -> None:
    assert exceeded() == []


def test_heavy_module_would_be_seen() -> None:
    assert "pyarrow" in loaded("lpp.store.format.tables")


@pytest.mark.slow
@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_every_public_name_loads(package: str) -> None:
    done = python(f"import lpp.{package} as p\nfor n in getattr(p, '__all__', []): getattr(p, n)")
    assert (done.returncode, done.stderr) == (0, "")
    done = python(f"import lpp.{package} as p\np.no_such_name")
    assert "AttributeError" in done.stderr


def loaded(module: str) -> list[str]:
    """Which heavy packages importing `module` brings in."""
    done = python(f"import sys, {module}\nprint(*[m for m in {HEAVY} if m in sys.modules])")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def python(code: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
