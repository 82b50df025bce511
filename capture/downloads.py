"""Downloads from the Hugging Face hub, reported to a `Progress`: the hub's client prints no bar."""

from pathlib import Path
from typing import Any

from lpp.store.progress import Progress
from lpp.store.units import short_bytes


def download(repo: str, progress: Progress, **options: Any) -> Path:
    """The folder of a repository's files; downloads those that the hub's cache lacks.

    progress: gets notes of the bytes downloaded so far, from the client's threads. options: of
    `huggingface_hub.snapshot_download`, whose errors are raised.
    """
    import huggingface_hub
    from huggingface_hub.utils.tqdm import tqdm

    class NotedBytes(tqdm):
        """A bar of the client: of all bytes, of files, or in later releases of the network."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]
            of_network = kwargs.get("desc") == "Downloading bytes"  # compressed, of unknown total
            self._noted = kwargs.get("unit") == "B" and not of_network

        def update(self, n: float | None = 1) -> None:
            with self.get_lock():  # files come in several threads
                self.n += n or 0
                if self._noted:
                    done, total = short_bytes(int(self.n)), short_bytes(int(self.total or 0))
                    progress.note(f"download {repo}: {done} of {total}")

    return Path(huggingface_hub.snapshot_download(repo, tqdm_class=NotedBytes, **options))
