"""What the harness measures: a model file and the inputs prepared for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

SEED = 0
ID_LIMIT = 1000  # random integer inputs are below this: most vocabularies are larger

Feed = dict[str, np.ndarray]


class WorkloadError(Exception):
    """A model was not found, or no inputs can be prepared for it."""


@dataclass(frozen=True)
class Workload:
    """A model and its inputs."""

    name: str
    path: Path
    feed: Feed


@dataclass(frozen=True)
class DeclaredInput:
    """A graph input; a symbolic dimension is its name, a nameless one the empty string."""

    name: str
    dtype: np.dtype
    shape: tuple[int | str, ...]


def find_model(argument: str, nets: Path | None, models: Path | None) -> Path:
    """The file that a command-line argument means: a path, or a name below a folder.

    Args:
        argument: A path, or a name: ``models/NAME/model.onnx`` or ``nets/NAME.onnx``.
        nets: A folder of ``NAME.onnx`` files.
        models: A folder of ``NAME/model.onnx`` and ``NAME/cases.npz``.

    Raises:
        WorkloadError: None of these files exists.
    """
    candidates = [Path(argument)]
    if models is not None:
        candidates.append(models / argument / "model.onnx")
    if nets is not None:
        candidates.append(nets / f"{argument}.onnx")
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    tried = ", ".join(str(candidate) for candidate in candidates)
    raise WorkloadError(f"no model {argument!r}; tried {tried} (see --nets and --models)")


def prepare(path: Path, batch: int | None, dims: Mapping[str, int]) -> Workload:
    """A workload: case 0 of the ``cases.npz`` beside the model, or else random inputs, seed 0.

    Args:
        path: The ONNX file.
        batch: The size of the batch dimension (the symbolic first dimension of the first input,
            wherever it occurs); None keeps the recorded case, and means 1 for random inputs.
        dims: Sizes of other symbolic dimensions, for random inputs.

    Raises:
        WorkloadError: The batch is fixed in the model, a symbolic size is not given, or an input
            has a type without a random generator.
    """
    inputs = declared_inputs(path)
    leading = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    symbol = leading if isinstance(leading, str) else None
    if batch not in (None, leading) and symbol is None:
        raise WorkloadError(f"{path}: the batch is fixed at {leading}")
    cases = path.with_name("cases.npz")
    if cases.is_file():
        feed = _recorded(cases, inputs, batch, symbol)
    else:
        sizes = dict(dims) if symbol is None else {symbol: batch or 1, **dims}
        rng = np.random.default_rng(SEED)
        feed = {item.name: _random(path, item, sizes, rng) for item in inputs}
    name = path.parent.name if path.name == "model.onnx" else path.stem
    suffix = "" if batch is None else f" x{batch}"
    return Workload(name + suffix, path, feed)


def declared_inputs(path: Path) -> list[DeclaredInput]:
    """The inputs of an ONNX file that are not initializers."""
    graph = onnx.load(path, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    found = []
    for value in graph.input:
        if value.name in constants:
            continue
        tensor = value.type.tensor_type
        shape = tuple(
            dim.dim_value if dim.dim_value > 0 else dim.dim_param for dim in tensor.shape.dim
        )
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        found.append(DeclaredInput(value.name, dtype, shape))
    return found


def _recorded(
    cases: Path, inputs: list[DeclaredInput], batch: int | None, symbol: str | None
) -> Feed:
    with np.load(cases) as stored:
        feed = {item.name: np.array(stored[f"case0/in/{item.name}"], order="C") for item in inputs}
    if batch is None or symbol is None:
        return feed
    for item in inputs:
        # A nameless dimension says nothing about the others: only the first is the batch.
        axes = [i for i, dim in enumerate(item.shape) if dim == symbol and (symbol or i == 0)]
        for axis in axes:
            array = feed[item.name]
            feed[item.name] = np.take(array, np.arange(batch) % array.shape[axis], axis)
    return feed


def _random(
    path: Path, item: DeclaredInput, sizes: Mapping[str, int], rng: np.random.Generator
) -> np.ndarray:
    unknown = [dim for dim in item.shape if isinstance(dim, str) and dim not in sizes]
    if unknown:
        raise WorkloadError(f"{path}: input {item.name!r} needs --dim {unknown[0]}=SIZE")
    shape = [dim if isinstance(dim, int) else sizes[dim] for dim in item.shape]
    if item.dtype.kind == "f":
        return np.asarray(rng.standard_normal(shape), item.dtype)
    if item.dtype.kind in "iu":
        limit = min(ID_LIMIT, np.iinfo(item.dtype).max)
        return np.asarray(rng.integers(0, limit, shape), item.dtype)
    if item.dtype.kind == "b":
        return np.asarray(rng.integers(0, 2, shape), item.dtype)
    raise WorkloadError(f"{path}: no random values of type {item.dtype} (input {item.name!r})")
