"""Export: a run as the files that another project reads.

Everything is written into a hidden folder beside the output, which is renamed once it is whole. A
call that was interrupted goes on after the last part that is whole; of two calls at once, one wins.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from lpp.store.errors import (
    ConflictError,
    ErrorKind,
    InputError,
    LppError,
    MachineError,
    NotFoundError,
    first_line,
)
from lpp.store.exchange.projects import EXPORTED, Convention, project
from lpp.store.exchange.selection import Exported
from lpp.store.feed.checks import check_feed
from lpp.store.objects.owners import abandoned, owner_of, staged_name
from lpp.store.progress import SILENT, Progress
from lpp.store.root import enclosing_store
from lpp.store.runs.read import Run
from lpp.store.units import counted

_STATE: Final = "export.json"
"""Beside the parts while an export is under way: what it is of, and how many parts are whole."""


def export(
    run: Run,
    to: str,
    output: Path,
    *,
    sites: Sequence[str] | None = None,
    only_prompts: bool = False,
    progress: Progress = SILENT,
) -> Exported:
    """Write `run` into the new folder `output` as the project `to` reads it.

    Prompts come in order; those that were set aside, and branches, are left out. Without values
    `loss_mask` by token, every token is in the mask. Rows keep their bits. sites: ours, in the
    order in which the project is given them; every site that it can hold by default. only_prompts:
    write no states, for programs that read them from the store. Some parts of the rows are in
    memory at a time (`selection.PART_BYTES`).

    Raises InputError for a run that the project cannot hold, for missing shards, and if `output`
    exists or is inside a store; ConflictError(IN_USE) if another process writes it; FormatError
    that names an altered shard; MachineError if the disk is full. Nothing is at `output` then, and
    the same call goes on.
    """
    of = project(to, EXPORTED)
    files = of.opened()
    assert files.part is not None, "every one of EXPORTED is written"
    if only_prompts and files.finish is None:
        raise InputError(
            f"{to}: no program reads prompts alone of it. Leave --only-prompts out, or use "
            "speculators."
        )
    outer = enclosing_store(output)
    if outer or os.path.lexists(output):
        why = f"is inside the store {outer}" if outer else "exists, and is not overwritten"
        raise InputError(f"{output} {why}. Name another folder.")
    selection = exported(run, of, sites)
    check_feed([run], selection.sites, "float32")
    if not len(selection.prompt_ids):
        raise InputError(f"run {run.id} has no prompt to export.", kind=ErrorKind.NOT_FOUND)
    identity = [run.id, run.fingerprint, to, list(selection.sites), only_prompts]
    parts = 0 if only_prompts else len(selection.bounds) - 1
    progress.expect(parts)
    with _whole_folder(output, identity) as (folder, done):
        progress.advance(done)
        for number, part in enumerate(selection.parts(done), done):
            if only_prompts:
                break
            files.part(folder, selection, part)
            _keep(folder, identity, number + 1)
            progress.advance()
            progress.note(f"{counted(part.first + len(part.prompt_ids), 'prompt')} written")
        if files.finish is not None:
            files.finish(folder, selection)
    return selection


def exported(run: Run, of: Convention, sites: Sequence[str] | None = None) -> Exported:
    """The sites of a run that an export to a project has. InputError says what does not fit."""
    n_blocks = run.plan.model.n_blocks
    for site in sites or ():
        run.require_rows(site, "float32")
    chosen = list(run.activation_sites if sites is None else sites)
    if not of.counts_layers:
        return Exported(run=run, sites=tuple(chosen))
    if run.plan.has_given_sites or not n_blocks:
        raise InputError(
            f"run {run.id}: another program named its sites, and {of.name} counts blocks. "
            "Export it as safetensors or parquet."
        )
    last = f"block.{n_blocks}"
    if last not in run.sites:
        raise NotFoundError(
            f"run {run.id} has no site {last}, which {of.name} needs; it has "
            f"{', '.join(run.sites)}. Capture it with --sites."
        )
    if sites is not None and "final" in sites:
        raise InputError(
            f"{of.name} has no layer for final, its states are those before the final norm. Leave "
            "it out of the sites."
        )
    inner = [site for site in chosen if site not in (last, "final")]
    layers = tuple(run.plan.depth_of(site) for site in inner)
    selection = Exported(run=run, sites=(*inner, last), layers=layers)
    if len({*selection.dtypes.values()}) > 1:
        listed = ", ".join(f"{site} is {dtype}" for site, dtype in selection.dtypes.items())
        raise InputError(
            f"{of.name} holds rows of one type: {listed}. Nothing is rounded here: capture with "
            "--stored-dtype, or choose other sites."
        )
    return selection


@contextmanager
def _whole_folder(output: Path, identity: list[Any]) -> Iterator[tuple[Path, int]]:
    """A folder to write into, of this call alone, which becomes `output` if the block ends without
    an error; and the parts that are whole in it.

    It goes on with the folder of a call that failed or was killed. Of two calls at once each has
    its own, and the rename decides.
    """
    folder = output.with_name(staged_name(output.name))
    left = output.with_name(f".{output.name}.partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        done = _take_over(_left_behind(output, left), folder, identity)
        _keep(folder, identity, done)
        yield folder, done
        if os.path.lexists(output):  # a rename would replace an empty folder
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), output)
        os.rename(folder, output)
        (output / _STATE).unlink()
    except OSError as error:
        if isinstance(error, LppError):
            raise
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            shutil.rmtree(folder, ignore_errors=True)
            raise ConflictError(
                f"{output}: another process wrote it meanwhile, and it stays as it is. Name "
                "another folder.",
                kind=ErrorKind.IN_USE,
            ) from None
        raise MachineError(
            f"{output}: cannot be written ({first_line(error)}). What is whole stays in {left}: "
            "make room, and repeat the command.",
            kind=ErrorKind.DISK_FAILED,
        ) from None
    finally:
        if _state(folder):
            with suppress(OSError):
                shutil.rmtree(left, ignore_errors=True)
                os.rename(folder, left)
        shutil.rmtree(folder, ignore_errors=True)


def _left_behind(output: Path, left: Path) -> list[Path]:
    """Folders beside `output` of calls that failed or were killed. ConflictError for one at work on
    this machine; InputError if `left` is not of an export.
    """
    found = []
    if left.exists() and _state(left) is None and any(left.iterdir()):
        raise InputError(f"{left} holds files that no export left there. Remove it.")
    for path in sorted(output.parent.iterdir()):
        owner = owner_of(path.name)
        if path == left or (owner and owner.target == output.name and abandoned(path, owner)):
            found.append(path)
        elif owner and owner.target == output.name and owner.here and owner.pid != os.getpid():
            raise ConflictError(
                f"{output}: another process, {owner.pid}, writes it. Wait for that process, or end "
                "it and repeat the command, which goes on where it stood.",
                kind=ErrorKind.IN_USE,
            )
    return found


def _take_over(found: list[Path], folder: Path, identity: list[Any]) -> int:
    """Make `folder`, of one of the folders `found` that is of the same export; the others are
    removed. Returns its whole parts.
    """
    done = 0
    for path in found:
        state = _state(path)
        with suppress(FileNotFoundError):  # another call took it
            if state is None or state[0] != identity or folder.exists():
                shutil.rmtree(path)
            else:
                os.rename(path, folder)
                done = state[1]
    folder.mkdir(exist_ok=True)
    return done


def _state(folder: Path) -> tuple[Any, int] | None:
    """What the export in `folder` is of, and its whole parts; None for another folder."""
    try:
        state = json.loads((folder / _STATE).read_text("utf-8"))
        return state["export"], int(state["parts"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(folder: Path, identity: list[Any], parts: int) -> None:
    """Record that parts are whole."""
    beside = folder / f"{_STATE}.new"
    beside.write_text(json.dumps({"export": identity, "parts": parts}), "utf-8")
    beside.replace(folder / _STATE)
