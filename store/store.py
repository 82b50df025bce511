"""A store: the directory that holds runs, SPEC.md section 2."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lpp.store.errors import ErrorKind, FormatError, InputError
from lpp.store.format.documents import load_json, parse_document, pretty_json, to_document
from lpp.store.format.keys import COMMIT_KEY, FORMAT_NAME, ROOT_KEY, ROOT_VERSION, RUNS_KEY
from lpp.store.objects.conditions import check_conditions
from lpp.store.objects.paths import MAX_ROOT_BYTES, read_bounded
from lpp.store.objects.place import Place, Url, place
from lpp.store.objects.writing import replace_file, sweep_stages
from lpp.store.read import Run


@dataclass(frozen=True, kw_only=True)
class RootDocument:
    """What `lpp.json` says."""

    format: str
    version: int


class Store:
    """A store, on a disk or in a bucket. Make one with `open_store` or `create_store`."""

    def __init__(self, path: Place) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {len(self.runs)} runs)"

    @cached_property
    def runs(self) -> Mapping[str, Run]:
        """Committed runs by id, sorted, as they were when first asked for.

        A directory without a COMMIT record is no run; one that a writer is still staging begins
        with a dot.
        """
        folder = self.path / RUNS_KEY
        names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        return {
            name: Run(folder / name)
            for name in names
            if not name.startswith(".") and (folder / name / COMMIT_KEY).exists()
        }


def open_store(url: Url) -> Store:
    """Open the store at `url`: a directory, `s3://bucket/prefix` or `az://container/prefix`.

    Raises FormatError: NOT_A_STORE when there is none, UNSUPPORTED_VERSION when a newer release
    wrote it. MachineError: DENIED or UNREACHABLE, of an object store.
    """
    path = place(url)
    root = path / ROOT_KEY
    try:
        if isinstance(root, Path) and not root.is_file():
            raise FileNotFoundError
        data = read_bounded(_resolved(path), ROOT_KEY, MAX_ROOT_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        found = "no such directory" if not path.exists() else f"it holds no file {ROOT_KEY}"
        raise FormatError(
            f"{path} is not an lpp store: {found}. "
            f"`lpp-capture run --model ... --store {path}` makes one.",
            kind=ErrorKind.NOT_A_STORE,
        ) from None
    document = parse_document(RootDocument, load_json(data, str(root)), str(root))
    if document.format != FORMAT_NAME:
        raise FormatError(
            f"{root}: format {document.format!r}, not {FORMAT_NAME!r}.", kind=ErrorKind.NOT_A_STORE
        )
    if not 1 <= document.version <= ROOT_VERSION:
        raise FormatError(
            f"{path}: store format {document.version}, this release reads 1 to {ROOT_VERSION}. "
            "Install a newer one: `pip install --upgrade lpp-engine`.",
            kind=ErrorKind.UNSUPPORTED_VERSION,
        )
    return Store(path)


def _resolved(path: Place) -> Place:
    """The root itself may be a link: its owner made it."""
    return path.resolve() if isinstance(path, Path) else path


def _occupied(path: Place) -> bool:
    """Whether `path` holds anything of someone else's; names with a dot are our own staging."""
    return any(not child.name.startswith(".") for child in path.iterdir())


def create_store(url: Url) -> Store:
    """Open the store at `url`, making an empty one where there is nothing yet.

    Raises InputError for a directory with other things in it: a store never mixes with them;
    MachineError for a bucket that ignores conditional puts (`lpp.store.objects.conditions`).
    """
    path = place(url)
    if not (path / ROOT_KEY).exists():
        # Looked for once more at the end: another writer may be making the same store.
        occupied = path.exists() and (not path.is_dir() or _occupied(path))
        if occupied and not (path / ROOT_KEY).exists():
            raise InputError(
                f"{path} is not an lpp store and not an empty directory. "
                "Name a new directory with --store.",
                kind=ErrorKind.NOT_A_STORE,
            )
        check_conditions(path)
        sweep_stages(path)
        document = RootDocument(format=FORMAT_NAME, version=ROOT_VERSION)
        replace_file(path / ROOT_KEY, pretty_json(to_document(document)))
    return open_store(path)
