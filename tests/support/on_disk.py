"""For tests whose store is on a disk."""

from pathlib import Path

from lpp.store.objects.place import Place


def on_disk(place: Place) -> Path:
    """`place` as a local path; fails for a bucket."""
    assert isinstance(place, Path), f"{place} lies in a bucket"
    return place
