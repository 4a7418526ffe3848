"""Model files: what kind a file is, by its content, and which other files belong to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pjit.errors import FormatError
from pjit.runtime.container import MAGIC

_HEAD = 4096
_OTHERS = (
    (0, b"PK\x03\x04", "a ZIP archive, such as a PyTorch checkpoint", "export it to ONNX"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, such as a Keras model", "export it to ONNX"),
    (0, b"\x80", "a Python pickle, such as a PyTorch checkpoint", "export it to ONNX"),
    (4, b"TFL3", "a TensorFlow Lite model", "export it to ONNX"),
    (4, b"ORTM", "an ORT format model", "load the ONNX file that it was made from"),
    (0, b"GGUF", "a GGUF file", "export the network to ONNX"),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it"),
    (0, b"\x93NUMPY", "a NumPy array", "load the model, and pass the array to it"),
)


def kind_of(path: Path) -> str:
    """The kind of a model file: ``pjit`` or ``onnx``.

    Raises:
        FileNotFoundError: There is no such file.
        FormatError: It is of another kind.
    """
    if not path.exists():
        near = sorted(p.name for p in path.parent.glob(f"*{path.suffix}"))[:8]
        hint = f"; {path.parent} has {', '.join(near)}" if near and path.suffix else ""
        raise FileNotFoundError(f"no model file {os.fspath(path)!r}{hint}")
    if path.is_dir():
        raise FormatError("the model is a folder, not a file", where=str(path))
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if head.startswith(MAGIC[:5]):
        return "pjit"
    for at, magic, what, remedy in _OTHERS:
        if head[at : at + len(magic)] == magic:
            raise FormatError(
                f"pjit does not read {what}", where=str(path), expected="ONNX", remedy=remedy
            )
    if not head:
        raise FormatError("the file is empty", where=str(path), expected="an ONNX model")
    if _is_text(head):
        raise FormatError(
            "a text file is no model that pjit reads",
            where=str(path),
            expected="an ONNX model, or a .pjit file that pjit-convert wrote",
            got=head[:40].decode(errors="replace").splitlines()[0],
        )
    return "onnx"


def _is_text(head: bytes) -> bool:
    """Whether these are printable characters; ONNX begins with control characters."""
    try:
        text = head.decode()
    except UnicodeDecodeError as e:
        if e.start < len(head) - 4:
            return False
        text = head[: e.start].decode()
    return bool(text) and all(c.isprintable() or c in "\t\r\n" for c in text)


def external_files(path: Path) -> list[str]:
    """The files that hold data of an ONNX model, relative to its folder."""
    from onnx.external_data_helper import uses_external_data

    from pjit.frontends.onnx.reader import is_own, read_model

    model, _, _ = read_model(path)
    names: dict[str, None] = {}
    for tensor in _tensors(model.graph):
        if uses_external_data(tensor):
            fields = {e.key: e.value for e in tensor.external_data}
            names[fields.get("location", "")] = None
    return [n for n in names if n and n != path.name and not is_own(n)]


def _tensors(graph: Any) -> Iterator[Any]:
    """The tensors of a graph and of the graphs in it that may have external data."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for a in node.attribute:
            if a.HasField("t"):
                yield a.t
            yield from a.tensors
            if a.HasField("g"):
                yield from _tensors(a.g)
            for g in a.graphs:
                yield from _tensors(g)
