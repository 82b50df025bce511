"""A container that contradicts itself ends a commit with one message, and the next one goes on."""

from collections.abc import Iterator

import pytest
from azure_server import Azure, endpoint
from bucket_store import same
from s3_server import Fault, Proxy, always
from small_capture import Capture

from lpp.store.errors import MachineError

pytestmark = pytest.mark.slow

FAULTS = {
    "condition": Fault(kind="answer", status=412, code="ConditionNotMet"),
    "exists": Fault(kind="answer", status=409, code="BlobAlreadyExists"),
}


@pytest.fixture
def proxy(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """What stands before the server; a request is repeated for some seconds."""
    found = Proxy(azure.port)
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", endpoint(found.port))
    monkeypatch.setenv("LPP_RETRY_SECONDS", "5")
    yield found
    found.close()


@pytest.mark.parametrize("name", ["condition", "exists"])
def test_a_server_that_denies_what_is_not_there_ends_the_commit(
    azure: Azure, proxy: Proxy, capture: Capture, name: str
) -> None:
    """It refuses each new record because one exists, and has none."""
    capture.write(azure.url, shards=(0,))
    proxy.rule = always(FAULTS[name], method="PUT", part="shards/00001/COMMIT.json")
    with pytest.raises(MachineError, match="same command"):
        capture.write(azure.url)
    proxy.rule = lambda _method, _key: None
    assert same(capture.write(azure.url), capture)
