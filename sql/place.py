"""Find the store that `lpp-sql` queries, without loading its readers."""

import os
from pathlib import Path

from lpp.store.objects.place import Place, Url, place


def store_root(url: Url) -> Place:
    """The absolute directory, or the bucket's prefix, of the store at `url`.

    Raises what `lpp.store.root.find_store` does.
    """
    from lpp.store.root import find_store

    root = place(url)
    # Absolute, so that DuckDB sees no prefix such as `md:` in it.
    return find_store(Path(os.path.abspath(root)) if isinstance(root, Path) else root).place
