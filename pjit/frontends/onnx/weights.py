"""Leaves the large weights of an ONNX file where they are, so that parsing does not copy them.

Protobuf copies every byte of a message, twice with the file's own. Here the file is walked at the
level of its wire format (https://protobuf.dev/programming-guides/encoding/): the raw data of
large initializers is left out, and the tensor says instead that its data is external, in the
model's own file, at the place where it was.
"""

from __future__ import annotations

from collections.abc import Iterator

LARGE = 1 << 16  # bytes from which raw data is left in the file
_GRAPH, _INITIALIZER = 7, 5  # fields of ModelProto and GraphProto
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14  # fields of TensorProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_EXTERNAL = 1  # TensorProto.EXTERNAL


class NotWalked(ValueError):
    """The bytes are no message of this shape; a parser has to say what is wrong with them."""


def detached(data: memoryview, location: str) -> bytes:
    """The message of a model without the raw data of its large initializers.

    Args:
        data: The file.
        location: The name of the file, relative to its folder.

    Raises:
        NotWalked: The wire format is damaged.
    """
    out: list[bytes | memoryview] = []
    for number, start, at, end in _fields(data, 0, len(data)):
        if number == _GRAPH:
            out.append(_message(_GRAPH, _graph(data, at, end, location)))
        else:
            out.append(data[start:end])
    return b"".join(out)


def _graph(data: memoryview, start: int, end: int, location: str) -> bytes:
    out: list[bytes | memoryview] = []
    for number, begin, at, stop in _fields(data, start, end):
        new = _tensor(data, at, stop, location) if number == _INITIALIZER else None
        out.append(data[begin:stop] if new is None else _message(_INITIALIZER, new))
    return b"".join(out)


def _tensor(data: memoryview, start: int, end: int, location: str) -> bytes | None:
    """A tensor whose raw data stays in the file; None when it is small or elsewhere already."""
    if end - start < LARGE:
        return None
    kept: list[bytes | memoryview] = []
    raw: tuple[int, int] | None = None
    for number, begin, at, stop in _fields(data, start, end):
        if number in (_EXTERNAL_DATA, _DATA_LOCATION):
            return None
        if number == _RAW_DATA:
            raw = at, stop
        else:
            kept.append(data[begin:stop])
    if raw is None or raw[1] - raw[0] < LARGE:
        return None
    place = {"location": location, "offset": str(raw[0]), "length": str(raw[1] - raw[0])}
    for key, value in place.items():
        entry = _message(1, key.encode()) + _message(2, value.encode())
        kept.append(_message(_EXTERNAL_DATA, entry))
    return b"".join([*kept, _varint(_DATA_LOCATION << 3 | _VARINT), _varint(_EXTERNAL)])


def _fields(data: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, start, start of the content and end of each field."""
    while at < end:
        start = at
        tag, at = _read_varint(data, at, end)
        kind = tag & 7
        content = at
        if kind == _VARINT:
            _, at = _read_varint(data, at, end)
        elif kind == _BYTES:
            size, content = _read_varint(data, at, end)
            at = content + size
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise NotWalked("an unknown wire type")
        if at > end:
            raise NotWalked("a field ends behind its message")
        yield tag >> 3, start, content, at


def _read_varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise NotWalked("a number does not end")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _message(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content
