"""Arrays from zarr-python, with the types of a store's arrays."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.core.metadata import ArrayV3Metadata

if TYPE_CHECKING:
    from lpp.store.runs.site_rows import SiteRows


def array_in(group: zarr.Group, name: str) -> "zarr.Array[Any]":
    """The array `name` of `group`."""
    found = group[name]
    assert isinstance(found, zarr.Array)
    return found


def rows_of(array: "zarr.Array[Any] | SiteRows") -> npt.NDArray[Any]:
    """Every row of `array`."""
    return np.asarray(array[:])


def dimension_names(array: "zarr.Array[Any]") -> tuple[str | None, ...] | None:
    """Names of the dimensions of an array of Zarr 3."""
    assert isinstance(array.metadata, ArrayV3Metadata)
    return array.metadata.dimension_names
