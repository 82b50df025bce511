"""A place that holds objects: a disk, a bucket, a container of Azure."""

import pytest
from places import Behind, place_of

from lpp.store.objects.protocol import Objects


@pytest.fixture(params=["disk", "bucket", pytest.param("azure", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest) -> Behind:
    return place_of(request.param, request)


@pytest.fixture
def objects(place: Behind) -> Objects:
    return place.objects
