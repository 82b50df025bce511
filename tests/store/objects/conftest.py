"""A place that holds objects: a disk, a bucket, a container of Azure."""

import pytest
from places import AZURE, BUCKET, Behind, place_of

from lpp.store.objects.protocol import Objects


@pytest.fixture(params=["disk", BUCKET, AZURE])
def place(request: pytest.FixtureRequest) -> Behind:
    return place_of(request.param, request)


@pytest.fixture
def objects(place: Behind) -> Objects:
    return place.objects
