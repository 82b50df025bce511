"""A place that holds objects: a disk, a bucket."""

import pytest
from places import BUCKET, Behind, place_of

from lpp.store.objects.protocol import Objects


@pytest.fixture(params=["disk", BUCKET])
def place(request: pytest.FixtureRequest) -> Behind:
    return place_of(request.param, request)


@pytest.fixture
def objects(place: Behind) -> Objects:
    return place.objects
