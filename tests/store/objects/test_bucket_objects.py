"""What only a bucket does."""

from typing import Any

import pytest
from places import part, recorded
from s3_server import S3

from lpp.store.errors import ErrorKind, FormatError, LppError, MachineError
from lpp.store.objects.locate import objects_at


class TestBucket:
    """What only a bucket does: ignore conditions, answer in parts, end before its answer does."""

    def test_a_store_that_ignores_conditions(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        s3.proxy.strip_conditions = True
        objects = objects_at(s3.url)
        with pytest.raises(MachineError, match="If-None-Match") as caught:
            objects.check_exclusive()
        assert caught.value.kind is ErrorKind.DENIED
        assert "LPP_ONLY_WRITER=1" in str(caught.value)
        assert s3.objects() == {}
        monkeypatch.setenv("LPP_ONLY_WRITER", "1")
        objects.check_exclusive()
        assert objects.put_new("a", b"x")
        assert not objects.put_new("a", b"y")
        _, version = objects.get_version("a", 9)
        assert objects.put_over("a", b"z", version)
        assert not objects.put_over("a", b"w", version)
        assert list(s3.objects().values()) == [b"z"]
        objects.delete(["a"])
        assert not objects.put_over("a", b"w", version)
        assert s3.objects() == {}

    def test_bytes_that_are_too_many_are_not_fetched(self, s3: S3) -> None:
        s3.put("some/store/a", bytes(3 << 20))
        objects = objects_at(s3.url)
        with pytest.raises(FormatError, match="more than 5 bytes"):
            objects.get("a", 5)
        with pytest.raises(ValueError, match="altered"):
            objects.file("a", recorded(b"x"))
        assert objects.get_version("a", 5)[0] == b""
        assert not objects.put_new("a", b"x")

    def test_a_range_of_several_parts_of_an_object_that_ends_before(
        self, s3: S3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lpp.store.objects.bucket.PART_BYTES", 4)
        s3.put("some/store/a", b"0123456789")
        objects = objects_at(s3.url)
        assert part(objects, "a", 1, 10, ahead=range(1, 10), size=10) == b"123456789"
        for end in (11, 14, 40):
            with pytest.raises(EOFError):
                part(objects, "a", 1, end, ahead=range(1, end), size=end)

    @pytest.mark.parametrize("keeps", [True, False])
    def test_a_request_on_a_version_costs_one(self, s3: S3, keeps: bool) -> None:
        objects = objects_at(s3.url)
        objects.put("a", b"old")
        _, version = objects.get_version("a", 9)
        if not keeps:
            s3.put("some/store/a", b"theirs")
        s3.proxy.seen.clear()
        assert objects.put_over("a", b"new", version) is keeps
        assert [seen.method for seen in s3.proxy.seen] == ["PUT"] + ["GET"] * (not keeps)

    def test_what_a_place_refuses_is_one_line(self, s3: S3) -> None:
        from s3_server import SECRET, Fault, always

        s3.proxy.rule = always(Fault(kind="answer", status=403, code="AccessDenied"))
        objects = objects_at(s3.url)
        calls: tuple[Any, ...] = (
            lambda: objects.exists("a"),
            objects.entries,
            lambda: list(objects.walk()),
            lambda: objects.get("a", 1),
            lambda: objects.stat("a"),
            lambda: objects.write("a", [b"x"]),
            lambda: objects.put_new("a", b"x"),
            lambda: objects.delete(["a"]),
            objects.check_exclusive,
        )
        for call in calls:
            with pytest.raises(LppError) as caught:
                call()
            assert caught.value.kind is ErrorKind.DENIED
            assert "\n" not in str(caught.value)
            assert SECRET not in str(caught.value)
