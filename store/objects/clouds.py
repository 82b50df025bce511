"""The supported object stores: one entry for each URL scheme.

A scheme is supported only if the tests pass on a server with the cloud's own interface and its
conditional writes: of two writers that create an object, or replace the same version of one, only
one may succeed. Settings have the names that obstore reads from the environment.
"""

import re
from dataclasses import dataclass
from typing import Final

_PART = r"[^\x00-\x1f\x7f\\?#%*\[\]{}^`\"<>|~]+"


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """What differs between object stores: names, and where settings come from."""

    scheme: str
    bucket: str
    """What this cloud calls a bucket."""
    bucket_names: re.Pattern[str]
    parts: re.Pattern[str]
    """Matches an allowed part of a prefix."""
    rule: str
    """The allowed names in words, for messages."""
    credentials: tuple[str, ...]
    """Environment variables."""
    endpoint: str
    """Environment variable: the server, if it is not the cloud's own."""
    allow_http: str
    """Environment variable: "true" for an endpoint without TLS."""

    @property
    def example(self) -> str:
        """The form of a URL."""
        return f"{self.scheme}://{self.bucket}/prefix"


_S3: Final = Cloud(
    scheme="s3",
    bucket="bucket",
    bucket_names=re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*"),
    parts=re.compile(_PART),
    rule="of letters, digits, dots, dashes and underscores",
    credentials=("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    endpoint="AWS_ENDPOINT_URL",
    allow_http="AWS_ALLOW_HTTP",
)

# Names: https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata
_AZURE: Final = Cloud(
    scheme="az",
    bucket="container",
    bucket_names=re.compile(r"(?=.{3,63}\Z)[a-z0-9]+(?:-[a-z0-9]+)*"),
    parts=re.compile(rf"{_PART}(?<!\.)"),
    rule="the container of 3 to 63 lower-case letters, digits and single dashes, the prefix of "
    "letters, digits, dots, dashes and underscores, no part ending in a dot",
    credentials=(
        "AZURE_STORAGE_ACCOUNT_NAME",
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
    ),
    endpoint="AZURE_STORAGE_ENDPOINT",
    allow_http="AZURE_ALLOW_HTTP",
)

CLOUDS: Final = {cloud.scheme: cloud for cloud in (_S3, _AZURE)}

UNPROVEN: Final = {
    "gs": "No test server shows that Google Cloud Storage keeps two writers apart through this "
    "client: write to a directory and copy the finished store into the bucket."
}
"""Schemes that obstore supports and this project does not: why, and what to do instead."""


_WEB: Final = Cloud(
    scheme="https",
    bucket="server",
    bucket_names=re.compile(_PART),
    parts=re.compile(_PART),
    rule="",
    credentials=("HF_TOKEN",),
    endpoint="HF_ENDPOINT",
    allow_http="",
)
"""A server of plain files, which stands for any (`lpp.store.objects.address`)."""


def cloud_of(url: str) -> Cloud:
    """The object store of `url`, whose scheme is one of `CLOUDS`, or the server of an address."""
    return CLOUDS.get(url.partition("://")[0], _WEB)
