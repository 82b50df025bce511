"""An array of several chunks."""

import pytest
from stored_arrays import Stored, joined, make_rows, make_spec

from lpp.store.arrays.encoder import encode_array
from lpp.store.arrays.metadata import parse_layout


@pytest.fixture(scope="session")
def six_chunks() -> Stored:
    """5 chunks of 256 rows and a sixth of 220."""
    spec = make_spec(1500, 2048)
    rows = make_rows(spec)
    encoded = encode_array(spec, rows)
    objects = {"zarr.json": encoded.metadata, "c/0/0": joined(encoded)}
    return Stored(rows, parse_layout(encoded.metadata, spec, "x"), objects, encoded.chunks)
