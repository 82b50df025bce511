"""A disk or a bucket, a run that is written in few steps, and a loop over the steps of a writer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from disturbed_writers import EachStep
from places import BUCKET, Behind, DiskPlace, committed, place_of, strays
from small_capture import Capture, make_capture

from lpp.store.format.plan import SiteSpec

SITE = SiteSpec(name="final", convention="post_norm", width=4)
ROWS = {"final": np.arange(20, dtype=np.uint16).reshape(5, 4)}


@pytest.fixture(params=["disk", BUCKET])
def place(request: pytest.FixtureRequest) -> Behind:
    return place_of(request.param, request)


@pytest.fixture(scope="module")
def capture() -> Capture:
    """Two shards of one prompt and one site: few steps."""
    return make_capture((3, 2), (0, 1, 2), hidden=ROWS, sites=(SITE,))


@pytest.fixture(scope="module")
def expected(capture: Capture, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an undisturbed writer commits."""
    place = DiskPlace(tmp_path_factory.mktemp("alone") / "store")
    capture.write(place.url)
    assert strays(place.held()) == set()
    return committed(place.held())


@pytest.fixture(params=[3, pytest.param(1, marks=pytest.mark.soak)])
def each_step(request: pytest.FixtureRequest) -> EachStep:
    """Calls a function with 1, 2, ... until it says that there is no such step; how many there are.

    On a disk, where there are sixty, with every third; `soak` with each.
    """
    place = request.getfixturevalue("place")
    every = request.param if isinstance(place, DiskPlace) else 1

    def each(disturb: Callable[[int], bool]) -> int:
        number = 1
        while disturb(number):
            number += every
        return number - 1

    return each
