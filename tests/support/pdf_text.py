"""The words of a PDF that Chromium wrote, sheet by sheet: enough of the format for its files."""

import re
import zlib
from collections.abc import Iterator, Mapping


def sheets(document: bytes) -> list[str]:
    """The text of each sheet, in the order in which it is drawn."""
    objects = {
        int(number): body
        for number, body in re.findall(rb"(?s)\b(\d+) 0 obj\s(.*?)\sendobj\b", document)
    }
    return [
        "".join(_shown(_stream(objects[_reference(rb"/Contents", body)]), _fonts(body, objects)))
        for body in objects.values()
        if re.search(rb"/Type /Page\b", body)
    ]


def _reference(name: bytes, body: bytes) -> int:
    found = re.search(name + rb" (\d+) 0 R", body)
    assert found is not None
    return int(found[1])


def _stream(body: bytes) -> bytes:
    _, _, rest = body.partition(b"stream\n")
    return zlib.decompressobj().decompress(rest)


def _fonts(page: bytes, objects: Mapping[int, bytes]) -> dict[bytes, dict[int, str]]:
    """For each font of a page, the character of each glyph."""
    fonts = re.findall(rb"/(F\d+) (\d+) 0 R", page)
    return {
        name: _characters(_stream(objects[_reference(rb"/ToUnicode", objects[int(font)])]))
        for name, font in fonts
        if b"/ToUnicode" in objects[int(font)]
    }


def _characters(table: bytes) -> dict[int, str]:
    found: dict[int, str] = {}
    for first, last, to in re.findall(rb"<(\w{4})> <(\w{4})> <(\w{4})>", table):
        for glyph in range(int(first, 16), int(last, 16) + 1):
            found[glyph] = chr(int(to, 16) + glyph - int(first, 16))
    for glyph, to in re.findall(rb"(?m)^<(\w{4})> <(\w+)>$", table):
        found[int(glyph, 16)] = bytes.fromhex(to.decode()).decode("utf-16-be")
    return found


def _shown(content: bytes, fonts: Mapping[bytes, Mapping[int, str]]) -> Iterator[str]:
    font: Mapping[int, str] = {}
    for name, glyphs in re.findall(rb"/(F\d+) [\d.]+ Tf|<(\w+)> Tj", content):
        if name:
            font = fonts.get(name, {})
        for at in range(0, len(glyphs), 4):
            yield font.get(int(glyphs[at : at + 4], 16), "")
