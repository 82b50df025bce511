"""Documents of tasks that lie on a hub: one request settles whether the hub answers.

Without an answer the cache alone is read, so a task that is not in it is refused at once rather
than after half a minute of retries, each with a line of its own.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_ANSWER_SECONDS: Final = 10.0

_DATASET: Final = re.compile(r"^dataset_path:\s*[\"']?([^\s\"'#]+)", re.MULTILINE)
_NAME: Final = re.compile(r"[\w.-]+/[\w.-]+")


def asks_hub(task: Path) -> bool:
    """Whether the documents of a YAML file, or of one in a folder, have the name of a data set on
    the hub.
    """
    files = [*task.rglob("*.yaml"), *task.rglob("*.yml")] if task.is_dir() else [task]
    return any(
        _NAME.fullmatch(name) and not Path(name).exists()
        for file in files
        for name in _DATASET.findall(file.read_text("utf-8", errors="replace"))
    )


@contextmanager
def hub_or_cache() -> Iterator[None]:
    """Load from the cache alone meanwhile, where the hub does not answer."""
    if _answers():
        yield
        return
    from datasets import config
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = before


def _answers() -> bool:
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_ANSWER_SECONDS)
    except Exception:  # network errors: their classes differ between client releases
        return False
    return True
