"""Reads ONNX files: bytes to a checked ``ModelProto``, tensors to arrays.

Files may come from anywhere, so nothing here trusts them: sizes are compared with the bytes that
are there before memory is taken, and external data must be a plain file inside the folder of the
model.
"""

from __future__ import annotations

import mmap
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from pjit.errors import ModelError, Problem
from pjit.frontends.onnx.weights import LARGE, NotWalked, detached
from pjit.ir.types import DType, dtype

# Element types of ONNX that pjit has; numbers are onnx.TensorProto.DataType.
_FROM_ONNX = {
    1: "f32", 2: "u8", 3: "i8", 4: "u16", 5: "i16", 6: "i32", 7: "i64", 9: "bool",
    10: "f16", 11: "f64", 12: "u32", 13: "u64", 16: "bf16",
}  # fmt: skip


# Begins the place of what is in the model's own file, where a link led to it. No model can say so.
_OWN = f"\0{secrets.token_hex(16)}:"
# No link is followed at the last moment, and a pipe does not block.
_OPEN = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class Refused(Exception):
    """A part of the model cannot be converted; becomes a ``Problem``.

    Args:
        reason: What is wrong.
        help: What would help.
    """

    def __init__(self, reason: str, help: str = "") -> None:
        super().__init__(reason)
        self.reason, self.help = reason, help


def element_type(number: int) -> DType:
    """The DType of an ONNX element type; raises Refused."""
    if number not in _FROM_ONNX:
        known = onnx.TensorProto.DataType.values()
        name = onnx.TensorProto.DataType.Name(number) if number in known else str(number)
        raise Refused(f"no element type for {name}", f"pjit has {', '.join(_FROM_ONNX.values())}")
    return dtype(_FROM_ONNX[number])


def _not_onnx(name: str, reason: str) -> ModelError:
    help = "give a file written by an ONNX exporter"
    return ModelError([Problem(name, "", reason, help)], name)


def read_model(source: str | os.PathLike | bytes) -> tuple[onnx.ModelProto, Path | None, str]:
    """Parses a file, or the bytes of one.

    Returns:
        The model, the folder of its external data (None for bytes), and a name for messages.

    Raises:
        ModelError: It is not an ONNX model.
        OSError: The file cannot be opened.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        data, folder, name = bytes(source), None, "<bytes>"
    else:
        path = Path(source)
        data, folder, name = _read(path), path.parent, str(path)
    if not data:
        raise _not_onnx(name, "the file is empty")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise _not_onnx(name, "not an ONNX file, or a truncated one") from None
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise _not_onnx(name, "not an ONNX file: it holds no graph")
    if not model.opset_import:
        raise _not_onnx(name, "not an ONNX file, or a truncated one: it names no operator set")
    texts = [*_names(model.graph), *(o.domain for o in model.opset_import)]
    for f in model.functions:
        texts += [f.name, f.domain, *f.input, *f.output, *_node_names(f.node)]
    if not all(isinstance(text, str) for text in texts):
        raise _not_onnx(name, "damaged: a name is not UTF-8")
    return model, folder, name


def _read(path: Path) -> bytes:
    """A file's message; large weights stay in the file and become external data of it."""
    location = path.name
    if path.is_symlink():
        path = path.resolve()
        location = _OWN + quote(os.fsencode(path))
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size < LARGE:
            return file.read()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            try:
                with memoryview(mapped) as view:
                    return detached(view, location)
            except NotWalked:
                return file.read()


def _names(graph: onnx.GraphProto) -> Iterator[object]:
    """The names in a graph and its subgraphs; protobuf gives those that are no text as bytes."""
    yield graph.name
    yield from _node_names(graph.node)
    for info in (*graph.input, *graph.output):
        yield info.name
        yield from (d.dim_param for d in info.type.tensor_type.shape.dim)
    yield from (t.name for t in graph.initializer)
    yield from (t.values.name for t in graph.sparse_initializer)


def _node_names(nodes: Iterable[onnx.NodeProto]) -> Iterator[object]:
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for a in node.attribute:
            yield from (a.name, a.ref_attr_name)
            if a.HasField("g"):
                yield from _names(a.g)


def load_tensor(tensor: onnx.TensorProto, folder: Path | None) -> np.ndarray:
    """The array of a tensor, without a copy where it is stored raw.

    Raises:
        Refused: The element type is unknown, or the data has the wrong size or place.
    """
    dt = element_type(tensor.data_type)
    shape = tuple(tensor.dims)
    if any(d < 0 for d in shape):
        raise Refused(f"the tensor has the shape {list(shape)}")
    count = prod(shape)
    if tensor.HasField("segment"):
        raise Refused("the tensor is stored in segments", "export the model again")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return _load_external(tensor, folder, dt, shape)
    if tensor.HasField("raw_data"):
        raw = tensor.raw_data
        _check_size(len(raw), count * dt.itemsize)
        return _native(np.frombuffer(raw, _stored(dt)), dt).reshape(shape)
    field = numpy_helper.helper.tensor_dtype_to_field(tensor.data_type)
    stored = len(getattr(tensor, field))
    if stored != count:
        raise Refused(f"the tensor has {stored} elements, its shape {list(shape)} asks for {count}")
    return np.asarray(numpy_helper.to_array(tensor), dt.numpy).reshape(shape)


def _stored(dt: DType) -> np.dtype:
    return np.dtype(np.uint8) if dt.kind == "b" else dt.numpy.newbyteorder("<")


def _native(array: np.ndarray, dt: DType) -> np.ndarray:
    return array != 0 if dt.kind == "b" else array.astype(dt.numpy, copy=False)


def _check_size(found: int, wanted: int) -> None:
    if found != wanted:
        raise Refused(f"the tensor has {found} bytes, its type and shape ask for {wanted}")


def _load_external(
    tensor: onnx.TensorProto, folder: Path | None, dt: DType, shape: tuple[int, ...]
) -> np.ndarray:
    fields = {e.key: e.value for e in tensor.external_data}
    if not all(isinstance(text, str) for pair in fields.items() for text in pair):
        raise Refused("the place of its data is not UTF-8")
    location = fields.get("location", "")
    if folder is None:
        raise Refused(
            "its data is in another file", "import the model from its path, not from bytes"
        )
    path = external_path(folder, location)
    location = path.name if is_own(location) else location
    count = prod(shape) * dt.itemsize
    try:
        offset, length = int(fields.get("offset", 0)), int(fields.get("length", count))
    except ValueError:
        raise Refused(f"bad offset or length of external data: {fields}") from None
    if offset < 0:
        raise Refused(f"its data begins at byte {offset} of {location!r}")
    _check_size(length, count)
    try:
        handle = os.open(path, _OPEN)
    except OSError as e:
        raise Refused(
            f"cannot open its data file {location!r}: {e.strerror}", "put it beside the model"
        ) from None
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise Refused(f"its data file {location!r} is not a plain file")
    with os.fdopen(handle, "rb") as file:
        if offset + count > status.st_size:
            raise Refused(
                f"its data ends at byte {offset + count} of {location!r}, "
                f"which has {status.st_size}",
                "the data file is truncated or belongs to another model",
            )
        if count == 0:
            return np.zeros(shape, dt.numpy)
        return _native(np.asarray(np.memmap(file, _stored(dt), "r", offset, shape)), dt)


def is_own(location: str) -> bool:
    """Whether external data is in the model's own file, to which a link led."""
    return location.startswith(_OWN)


def external_path(folder: Path, location: str) -> Path:
    """The path of external data, which lies inside the folder; raises Refused."""
    if is_own(location):
        return Path(os.fsdecode(unquote_to_bytes(location.removeprefix(_OWN))))
    relative = Path(location)
    if not location or "\0" in location or relative.is_absolute() or ".." in relative.parts:
        raise Refused(
            f"its data file {location!r} is outside the folder of the model",
            "external data has a relative path without '..'",
        )
    base = folder.resolve()
    path = (base / relative).resolve()
    if not path.is_relative_to(base):
        raise Refused(
            f"its data file {location!r} is a link out of the folder of the model",
            "put the data file itself beside the model",
        )
    return path
