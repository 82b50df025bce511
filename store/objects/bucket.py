"""Requests to one bucket of an object store, through obstore: retries and conditional puts.

obstore retries a request after a network fault or a 5xx, with backoff and jitter, and uploads large
objects in parts. Faults that it does not retry (a truncated response body, a slow response to a
conditional put) are retried here, within the same time limit. Credentials and endpoint come only
from the environment, under the names that obstore uses.
"""

import contextlib
import os
import random
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property, lru_cache
from typing import Any, Final

from lpp.store.errors import ErrorKind, InputError, LppError, MachineError
from lpp.store.objects.bucket_faults import (
    CREDENTIALS,
    ENDPOINT,
    ReplacedError,
    fault_of,
    retryable,
)
from lpp.store.objects.place import headers, is_address
from lpp.store.objects.protocol import Result
from lpp.store.process.packages import install_command

PART_BYTES: Final = 8 << 20
"""Larger objects are read and written in parts of this size."""

PARTS_AT_ONCE: Final = 4
"""Parts of one object sent at once. Two sites are written at once: eight parts in total."""

REQUEST_SECONDS: Final = 30.0
"""Timeout of one request, including its body: a part needs at least 280 kB/s."""

REPLACED_AT_MOST: Final = 20
"""Times that an object may be replaced while its parts are read."""

RETRY_SECONDS: Final = 120.0
"""How long a request is retried before it fails; LPP_RETRY_SECONDS changes it."""


_first_process: Final[dict[str, int]] = {}
"""The process that made the first request. obstore's threads run there alone: in a process forked
from it a request would wait for ever."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One object, as a listing describes it."""

    key: str
    size: int
    modified: float
    """Seconds since the epoch, by the server's clock."""
    e_tag: str | None
    """Identifies this version of the object."""


@lru_cache(maxsize=64)
def bucket_of(url: str) -> "Bucket":
    """The bucket `url`, such as `s3://name`. A process has one client per bucket."""
    return Bucket(url)


class LargerError(Exception):
    """The object has more bytes than allowed. None of them was fetched."""


class Bucket:
    """Requests to one bucket. Each may raise FileNotFoundError for a missing object, MachineError
    (DENIED, UNREACHABLE or NO_PACKAGE), and InputError if there is no such bucket.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.patience = _retry_seconds()
        self.conditional = True
        """False if the store ignores conditions and the user has confirmed a single writer."""

    def get(self, key: str, most: int | None = None) -> memoryview:
        """The object's bytes, all of one version: in one request, or in parts if it is large.

        Raises LargerError for more than `most` bytes.
        """
        at_once = PART_BYTES if most is None else min(most, PART_BYTES)

        def ask() -> memoryview | Listed:
            response = self._obstore.get(self._client, key)  # has not read the body yet
            of = _listed(response.meta)
            return memoryview(response.bytes()) if of.size <= at_once else of

        for _ in range(REPLACED_AT_MOST):
            result = self._ask(key, ask)
            if isinstance(result, memoryview):
                return result
            if most is not None and result.size > most:
                raise LargerError
            with contextlib.suppress(ReplacedError):
                return self.get_range(key, 0, result.size, result.e_tag)
        raise MachineError(
            f"{self.url}/{key}: another version each time that its parts were read. See that "
            "nothing writes it all the time, then repeat the same command.",
            kind=ErrorKind.UNREACHABLE,
        )

    def get_range(self, key: str, start: int, end: int, e_tag: str | None = None) -> memoryview:
        """The bytes from `start` up to `end`, or to the object's end. Large ranges are read in
        parts, several at once.

        e_tag: of the expected version. Raises ReplacedError if the object has been replaced.
        """
        if end - start <= PART_BYTES:
            return self._get_part(key, start, end, e_tag)
        whole = memoryview(bytearray(end - start))

        def fetch(first: int) -> int:
            part = self._get_part(key, first, min(first + PART_BYTES, end), e_tag)
            whole[first - start : first - start + len(part)] = part
            return len(part)

        with ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="lpp-part") as pool:
            return whole[: sum(pool.map(fetch, range(start, end, PART_BYTES)))]

    def get_tagged(self, key: str, most: int) -> tuple[bytes, dict[str, str]]:
        """The bytes of a small object, and its version, for `put_over`. No bytes if there are more
        than `most`.
        """

        def ask() -> tuple[bytes, dict[str, str]]:
            response = self._obstore.get(self._client, key)
            named = {name: response.meta.get(name) for name in ("e_tag", "version")}
            data = bytes(response.bytes()) if response.meta["size"] <= most else b""
            return data, {k: v for k, v in named.items() if v is not None}

        return self._ask(key, ask)

    def head(self, key: str) -> Listed:
        """Size and time of one object."""
        return self._ask(key, lambda: _listed(self._obstore.head(self._client, key)))

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Write a whole object, replacing any other; in parts if it is large."""
        view = memoryview(data).cast("B")
        self._ask(
            key,
            lambda: self._obstore.put(
                self._client,
                key,
                view,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            ),
        )

    def put_new(self, key: str, data: bytes) -> bool:
        """Write a new object; False if there is one, which stays unchanged."""
        return self._put_if(key, data, "create")

    def put_over(self, key: str, data: bytes, version: dict[str, str]) -> bool:
        """Replace exactly this version of an object; False if it has been replaced already."""
        return self._put_if(key, data, version)

    def folder(self, key: str) -> tuple[list[str], list[Listed]]:
        """(prefixes, objects) directly under a prefix."""

        def ask() -> tuple[list[str], list[Listed]]:
            listing = self._obstore.list_with_delimiter(self._client, key or None)
            return list(listing["common_prefixes"]), [_listed(meta) for meta in listing["objects"]]

        return self._ask(key, ask)

    def below(self, key: str) -> list[Listed]:
        """Every object under a prefix, in order; one request per thousand objects."""

        def ask() -> list[Listed]:
            stream = self._obstore.list(self._client, key or None)
            return [_listed(meta) for batch in stream for meta in batch]

        return sorted(self._ask(key, ask), key=lambda item: item.key)

    def any_below(self, key: str) -> bool:
        """Whether there is an object under a prefix: one request."""

        def ask() -> bool:
            return bool(next(iter(self._obstore.list(self._client, key or None)), []))

        return self._ask(key, ask)

    def delete(self, keys: Collection[str]) -> None:
        """Remove objects; missing ones are ignored."""
        if all_keys := list(keys):
            self._ask(all_keys[0], lambda: self._obstore.delete(self._client, all_keys))

    def _put_if(self, key: str, data: bytes, mode: Any) -> bool:
        """A conditional put. If the response was lost, the object's content shows whether this put
        succeeded: no two writers write the same bytes.
        """
        if not self.conditional:
            return self._put_alone(key, data, mode)
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        def ask() -> bool:
            try:
                self._obstore.put(self._client, key, data, mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return False
            except FileNotFoundError as error:  # there is no version to replace
                if mode == "create" or not isinstance(fault_of(error, key), FileNotFoundError):
                    raise
                return False
            return True

        if self._ask(key, ask):
            return True
        with contextlib.suppress(FileNotFoundError):  # removed in the meantime
            return self.get_tagged(key, len(data))[0] == data
        return False

    def _put_alone(self, key: str, data: bytes, mode: Any) -> bool:
        """`_put_if` without the condition, for a single writer."""
        e_tag = None
        with contextlib.suppress(FileNotFoundError):
            e_tag = self.head(key).e_tag
        if e_tag != (None if mode == "create" else mode.get("e_tag")):
            return False
        self.put(key, data)
        return True

    def _get_part(self, key: str, start: int, end: int, e_tag: str | None) -> memoryview:
        if start == end:
            return memoryview(b"")
        options: dict[str, Any] = {"range": (start, end)}
        if e_tag is not None:
            options["if_match"] = e_tag

        def ask() -> memoryview:
            return memoryview(self._obstore.get(self._client, key, options=options).bytes())

        try:
            return self._ask(key, ask)
        except EOFError:
            return memoryview(b"")

    def _ask(self, key: str, request: Callable[[], Result]) -> Result:
        """The result of `request`, which is retried while that may help; raises the last fault."""
        base_error = self._obstore.exceptions.BaseError
        if _first_process.setdefault("pid", os.getpid()) != os.getpid():
            raise InputError(
                f"{self.url}: a process that was forked from one that used the network cannot. "
                "Start it by spawn, such as DataLoader(..., multiprocessing_context='spawn'), or "
                "use threads (num_workers=0).",
                kind=ErrorKind.NOT_ALLOWED,
            )
        start, pause = time.monotonic(), 0.2
        while True:
            try:
                return request()
            except LppError:  # invalid settings
                raise
            except (base_error, FileNotFoundError, ValueError) as error:
                fault = fault_of(error, f"{self.url}/{key}")
                if not retryable(error, fault) or time.monotonic() - start + pause > self.patience:
                    raise fault from None
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, 15.0)

    @cached_property
    def _client(self) -> Any:
        from obstore.store import from_url

        try:
            return from_url(
                self.url,
                retry_config={
                    "max_retries": 12,
                    "retry_timeout": timedelta(seconds=self.patience),
                    "backoff": {
                        "init_backoff": timedelta(seconds=min(0.2, self.patience / 8)),
                        "max_backoff": timedelta(seconds=min(15.0, self.patience / 2)),
                        "base": 2,
                    },
                },
                client_options={
                    "timeout": timedelta(seconds=REQUEST_SECONDS),
                    "connect_timeout": timedelta(seconds=10),
                    "allow_http": self.url.startswith("http://")
                    or os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("true", "1"),
                    "default_headers": headers(self.url),
                },
            )
        except Exception:  # its text quotes values of the environment
            names = (
                "HF_TOKEN, HF_ENDPOINT" if is_address(self.url) else f"{CREDENTIALS}, {ENDPOINT}"
            )
            raise InputError(
                f"{self.url}: the settings in the environment ({names}) are incomplete or not "
                "understood. Compare their names and values with those that obstore documents."
            ) from None

    @property
    def _obstore(self) -> Any:
        try:
            import obstore
        except ImportError:
            raise MachineError(
                "stores in buckets and at addresses need the package obstore, which is not "
                f"installed. Install it: {install_command('objects')}",
                kind=ErrorKind.NO_PACKAGE,
            ) from None
        return obstore


def _listed(meta: Any) -> Listed:
    e_tag = meta.get("e_tag")  # a weak one meets no condition
    return Listed(
        key=meta["path"],
        size=meta["size"],
        modified=meta["last_modified"].timestamp(),
        e_tag=None if e_tag is None or e_tag.startswith("W/") else e_tag,
    )


def _retry_seconds() -> float:
    text = os.environ.get("LPP_RETRY_SECONDS", "")
    try:
        seconds = float(text) if text else RETRY_SECONDS
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InputError(f"LPP_RETRY_SECONDS={text!r}: a positive number of seconds.")
    return seconds
