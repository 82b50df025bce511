"""The store that `lpp-sql` asks, found without loading its readers."""

import os
from pathlib import Path

from lpp.store.objects.place import Place, Url, place


def store_root(url: Url) -> Place:
    """The absolute directory, or the bucket's prefix, of the store at `url`.

    Raises what `lpp.store.root.find_store` does.
    """
    from lpp.store.root import find_store

    root = place(url)
    # Absolute, so that DuckDB takes no part of it for a prefix such as `md:`.
    return find_store(Path(os.path.abspath(root)) if isinstance(root, Path) else root).place
