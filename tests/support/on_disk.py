"""For tests whose store lies on a disk."""

from pathlib import Path

from lpp.store.objects.place import Place


def on_disk(place: Place) -> Path:
    """`place` as a path of the disk; fails for a bucket's."""
    assert isinstance(place, Path), f"{place} lies in a bucket"
    return place
