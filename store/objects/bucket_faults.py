"""Translate errors of the object store's client into errors of this package.

The client's messages quote the request, the endpoint and the server's whole response. None of that
may reach a user, a log or a traceback: only the kind of error, the HTTP status and the store's
error code, which is from a fixed list.
"""

import errno
import re
from typing import Final
from urllib.parse import quote

from lpp.store.errors import ErrorKind, InputError, LppError, MachineError
from lpp.store.objects.place import is_address

CREDENTIALS: Final = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN"
ENDPOINT: Final = "AWS_ENDPOINT_URL"
"""Where obstore reads the settings of a bucket: environment variables, for messages."""

DENIED: Final = frozenset(
    {
        "AccessDenied",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
"""Error codes for which a retry is useless."""

_STATUS = re.compile(r"(?:status code: |\(code: )(\d{3})\b")
_CODE = re.compile(r"(?:<Code>|\(code: )([A-Za-z]{1,64})(?:</Code>|\))")
"""The error code of a response; in brackets, of one object of a request that removes several."""

_METADATA_SERVICES = ("169.254.169.254", "169.254.170.2")

_REASONS: Final = {
    "timed out": "it did not answer in time",
    "timedout": "it did not answer in time",
    "dns error": "its name is unknown",
    "connect": "no connection",
    "incomplete": "the connection was cut",
    "closed": "the connection was cut",
    "range request not supported": "it ignores the range of a request and sends the whole file",
    "content-length header missing": "it does not say how many bytes it sends",
    "content-range header": "it does not say which range it sends",
    "requested ": "it sent another range than that of the request",
    "following redirect": "it redirects too often",
}
"""Part of the client's message -> the reason of a network fault; the first that fits counts."""


class ReplacedError(OSError):
    """The object was replaced while its parts were read."""


def fault_of(error: Exception, where: str) -> Exception:
    """The exception to raise for `error`, which occurred at `where`.

    FileNotFoundError for a missing object, ReplacedError for a part of an object that was replaced,
    EOFError for a part beyond the object's end, else an LppError.
    """
    text = _without_key(str(error), where)
    code = next(iter(_CODE.findall(text)), "")
    status = next(iter(_STATUS.findall(text)), "")
    if code == "NoSuchBucket":
        return _no_bucket(where)
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "no such object", where)
    beyond = status == "416" or "StartTooLarge" in text  # by the server, or by its client
    if type(error).__name__ == "PreconditionError" or beyond:
        return _other_object(beyond, where)
    refused = type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError")
    if refused or code in DENIED or status in ("401", "403"):
        return _denied(where, code or status or "refused")
    if any(host in text for host in _METADATA_SERVICES) or "credential" in text.lower():
        return _denied(where, "no credentials were found")
    return _unreachable(where, _reason(code, status, text))


_USELESS: Final = ("range request not supported", "content-length header missing")
"""Parts of messages about a server that will answer alike next time."""


def retryable(error: Exception, fault: Exception) -> bool:
    """Whether the request that met `error`, which is `fault` in our words, may succeed later."""
    status = next(iter(_STATUS.findall(str(error))), "500")
    passes = status.startswith("5") or status in ("408", "409", "429")
    passes &= not any(words in str(error).lower() for words in _USELESS)
    return passes and isinstance(fault, LppError) and fault.kind is ErrorKind.UNREACHABLE


def _without_key(text: str, where: str) -> str:
    """A message without the object's key, which may hold any word, `credential` or `closed` too."""
    key = where.partition("://")[2].partition("/")[2]
    for written in (key, quote(key), quote(key, safe="")) if key else ():
        text = text.replace(f"/{written}", "/…").replace(f"={written}", "=…")
    return text


def _reason(code: str, status: str, text: str) -> str:
    if code or status:
        return " ".join(part for part in (f"HTTP {status}" if status else "", code) if part)
    lower = text.lower()
    for words, reason in _REASONS.items():
        if words in lower:
            return reason
    return "the request failed"


def _other_object(beyond: bool, where: str) -> Exception:
    if beyond:
        return EOFError(f"{where}: it ends before the range that was asked for")
    return ReplacedError(errno.ESTALE, "replaced while it was read", where)


def _no_bucket(where: str) -> InputError:
    return InputError(
        f"{where}: there is no such bucket. Make it first, or correct the name.",
        kind=ErrorKind.NOT_FOUND,
    )


def _denied(where: str, why: str) -> MachineError:
    if is_address(where):
        return MachineError(
            f"{where}: the server refuses access ({why}). Give the address of a store that anybody "
            "may read; for a private repository of the Hugging Face hub, set HF_TOKEN in the "
            "environment (has it expired, and may it read the repository?).",
            kind=ErrorKind.DENIED,
        )
    return MachineError(
        f"{where}: the object store refuses access ({why}). Check the credentials in the "
        f"environment ({CREDENTIALS}: have they expired?) and what they may do in this bucket. "
        "What was committed stays; the same command resumes.",
        kind=ErrorKind.DENIED,
    )


def _unreachable(where: str, why: str) -> MachineError:
    if is_address(where):
        return MachineError(
            f"{where}: the server does not send this ({why}). Check the network and the address, "
            "then repeat the command; LPP_RETRY_SECONDS sets how long a request is repeated.",
            kind=ErrorKind.UNREACHABLE,
        )
    return MachineError(
        f"{where}: the object store does not serve this ({why}). Check the network and "
        f"{ENDPOINT}; LPP_RETRY_SECONDS sets how long a request is repeated. What "
        "was committed stays; the same command resumes.",
        kind=ErrorKind.UNREACHABLE,
    )
