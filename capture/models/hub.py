"""A hub model's files, at one exact revision, in the hub client's own cache.

One request with a time limit resolves the revision. Without an answer the cache is used; without a
cached copy an error is raised at once, not after minutes of retries.
"""

import re
from pathlib import Path
from typing import Any

from lpp.capture.downloads import download
from lpp.store.errors import ErrorKind, InputError, MachineError, first_line
from lpp.store.progress import SILENT, Progress

_ANSWER_SECONDS = 10.0
_DESCRIPTION = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
_WEIGHTS = "*.safetensors"  # never a pickle: loading one can run code
_CODE = "*.py"
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def hub_snapshot(
    model: str,
    revision: str | None,
    *,
    weights: bool,
    code: bool = False,
    progress: Progress = SILENT,
) -> tuple[Path, str]:
    """(folder, commit hash) of a hub model; downloads what the cache lacks.

    weights: fetch safetensors too. code: fetch Python files too, for trust_remote_code. progress:
    gets notes of the bytes downloaded.
    """
    check_hub_name(model)
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = [*_DESCRIPTION, *([_WEIGHTS] if weights else []), *([_CODE] if code else [])]
    commit, unreachable = _commit(model, revision)
    try:
        folder = download(
            model,
            progress,
            revision=commit or revision,
            allow_patterns=patterns,
            ignore_patterns=None if code else ["*/*"],  # other formats lie in subfolders
            local_files_only=commit is None,
        )
    except LocalEntryNotFoundError as error:
        raise _not_reached(model, revision, unreachable or error) from error
    except OSError as error:
        if error.errno is not None:
            raise MachineError(
                f"{model} could not be stored in the hub cache: {error}. "
                "Free space there, or set HF_HOME to a larger disk.",
                kind=ErrorKind.NO_SPACE,
            ) from error
        raise _not_reached(model, revision, error) from error
    return folder, folder.name


def check_hub_name(model: str) -> None:
    """Refuse what is no folder here and cannot be the name of a model on the hub."""
    if looks_like_a_path(model):
        raise InputError(
            f"no folder {model}, and no .gguf file of that name. Correct --model.",
            kind=ErrorKind.NOT_FOUND,
        )
    if not _NAME.fullmatch(model):
        raise InputError(
            f"no model {model!r}: neither a folder, nor a .gguf file, nor a hub name "
            "such as Qwen/Qwen2.5-0.5B-Instruct. Correct --model.",
            kind=ErrorKind.NOT_FOUND,
        )


def looks_like_a_path(model: str) -> bool:
    """Whether `model` is written as a path, to which the hub would answer with its naming rules."""
    return model.startswith((".", "/", "~")) or model.count("/") > 1


def _no_folder(model: str) -> str:
    """The start of a message if `model` may be meant as a folder: its parent folder exists.

    Such a name is still looked up on the hub: a folder may have the name of an owner there.
    """
    owner, slash, _ = model.rpartition("/")
    return f"no folder {model}, and " if slash and Path(owner).is_dir() else ""


def _commit(model: str, revision: str | None) -> tuple[str | None, Exception | None]:
    """The commit of a revision; or None and the reason why the hub did not give it."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        info = huggingface_hub.HfApi().model_info(model, revision=revision, timeout=_ANSWER_SECONDS)
    except errors.GatedRepoError as error:
        raise InputError(
            f"{model} is gated on the hub: accept its terms on its page there, then log in "
            "with `hf auth login`.",
            kind=ErrorKind.NOT_FOUND,
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(
            f"{model} has no revision {revision!r} on the hub. Give a branch, tag or commit "
            "with --revision.",
            kind=ErrorKind.NOT_FOUND,
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"{_no_folder(model)}the hub has no model {model!r}, or it is private: correct "
            "--model, or log in with `hf auth login`. For a local folder give a path that exists.",
            kind=ErrorKind.NOT_FOUND,
        ) from error
    except Exception as error:  # network errors: their classes differ between client releases
        return None, error
    return info.sha, None


def _not_reached(model: str, revision: str | None, why: Any) -> MachineError:
    wanted = model if revision is None else f"revision {revision} of {model}"
    option = "" if revision is None else f" --revision {revision}"
    return MachineError(
        f"{_no_folder(model)}{wanted} is not in the local hub cache and the hub cannot be reached "
        f"({first_line(why)}). Connect this machine, or download the model elsewhere with "
        f"`hf download {model}{option} --local-dir DIR` and give --model DIR.",
        kind=ErrorKind.NOT_FOUND,
    )
