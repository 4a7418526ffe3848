"""Recurrent layers: RNN, GRU and LSTM, as ``scan`` over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pjit.frontends.onnx.ops_math import Math
from pjit.frontends.onnx.ops_shape import cut
from pjit.frontends.onnx.reader import Refused
from pjit.frontends.onnx.registry import Node, onnx_op
from pjit.ir.builder import Builder
from pjit.ir.core import Block, Value
from pjit.ir.expr import Dim
from pjit.ir.types import TensorType, f32, i64

Activation = Callable[[Math, Value], Value]


def _activation(name: str, alpha: float | None, beta: float | None) -> Activation:
    plain = {"sigmoid": "sigmoid", "tanh": "tanh", "relu": "relu"}
    key = name.lower()
    if key in plain:
        return lambda m, x: getattr(m, plain[key])(x)
    if key == "affine":
        return lambda m, x: m.add(m.mul(x, 1.0 if alpha is None else alpha), beta or 0.0)
    if key == "leakyrelu":
        slope = 0.01 if alpha is None else alpha
        return lambda m, x: m.where(m.lt(x, 0.0), m.mul(x, slope), x)
    if key == "hardsigmoid":
        a, c = 0.2 if alpha is None else alpha, 0.5 if beta is None else beta
        return lambda m, x: m.clamp(m.add(m.mul(x, a), c), 0.0, 1.0)
    if key == "softsign":
        return lambda m, x: m.div(x, m.add(m.abs(x), 1.0))
    raise Refused(f"the activation {name!r} is not supported")


@dataclass
class _Layer:
    """The operands of one direction; gates are stacked along the rows of the weights."""

    hidden: Dim
    activations: list[Activation]
    clip: float | None
    recurrent: Value  # [H, gates*H]
    bias: Value | None  # the recurrent bias where a gate needs it by itself
    peephole: Value | None
    reset_after: bool  # GRU: the reset gate applies to the product, not to the state
    coupled: bool  # LSTM: the forget gate is one minus the input gate
    dynamic: bool  # what the weights multiply is rounded to 8 bits

    def gate(self, n: Node, x: Value, i: int, count: int = 1) -> Value:
        """Gates ``i`` to ``i + count`` of stacked columns."""
        last = x.tensor.rank - 1
        return cut(n, x, {last: (i * self.hidden, count * self.hidden, 1)})

    def limited(self, m: Math, x: Value) -> Value:
        """The input of an activation."""
        return x if self.clip is None else m.clamp(x, -self.clip, self.clip)


Step = Callable[[Node, _Layer, Value, list[Value]], list[Value]]


def _rnn(n: Node, layer: _Layer, x: Value, state: list[Value]) -> list[Value]:
    m = Math(n.b, x)
    total = m.add(x, m.matmul(state[0], layer.recurrent))
    return [layer.activations[0](m, layer.limited(m, total))]


def _gru(n: Node, layer: _Layer, x: Value, state: list[Value]) -> list[Value]:
    m, h = Math(n.b, x), state[0]
    f, g = layer.activations
    if layer.reset_after:
        product = m.matmul(h, layer.recurrent)
        both = m.add(layer.gate(n, x, 0, 2), layer.gate(n, product, 0, 2))
    else:
        both = m.add(layer.gate(n, x, 0, 2), m.matmul(h, layer.gate(n, layer.recurrent, 0, 2)))
    gates = f(m, layer.limited(m, both))
    update, reset = layer.gate(n, gates, 0), layer.gate(n, gates, 1)
    if layer.reset_after:
        inner = layer.gate(n, product, 2)
        if layer.bias is not None:
            inner = m.add(inner, layer.bias)
        inner = m.mul(reset, inner)
    else:
        inner = m.matmul(m.mul(reset, h), layer.gate(n, layer.recurrent, 2))
    new = g(m, layer.limited(m, m.add(layer.gate(n, x, 2), inner)))
    return [m.add(m.mul(m.sub(1.0, update), new), m.mul(update, h))]


def _lstm(n: Node, layer: _Layer, x: Value, state: list[Value]) -> list[Value]:
    m, (h, c) = Math(n.b, x), state
    f, g, last = layer.activations
    left = rounded(m, h) if layer.dynamic else h
    total = m.add(x, m.matmul(left, layer.recurrent))
    parts = [layer.gate(n, total, i) for i in range(4)]  # input, output, forget, cell

    def peep(i: int, cell: Value) -> Value:
        if layer.peephole is None:
            return parts[i]
        return m.add(parts[i], m.mul(layer.gate(n, layer.peephole, i), cell))

    take = f(m, layer.limited(m, peep(0, c)))
    keep = m.sub(1.0, take) if layer.coupled else f(m, layer.limited(m, peep(2, c)))
    cell = m.add(m.mul(keep, c), m.mul(take, g(m, layer.limited(m, parts[3]))))
    out = f(m, layer.limited(m, peep(1, cell)))
    return [m.mul(out, last(m, cell)), cell]


_CELLS: dict[str, tuple[Step, int, int, list[str]]] = {  # step, gates, states, activations
    "RNN": (_rnn, 1, 1, ["Tanh"]),
    "GRU": (_gru, 3, 1, ["Sigmoid", "Tanh"]),
    "LSTM": (_lstm, 4, 2, ["Sigmoid", "Tanh", "Tanh"]),
}


def _activations(n: Node, defaults: list[str], directions: int) -> list[list[Activation]]:
    names = list(n.attr("activations", "strings", ())) or defaults * directions
    if len(names) != len(defaults) * directions:
        raise Refused(f"{len(names)} activations for {directions} directions")
    alphas = list(n.attr("activation_alpha", "floats", ()))
    betas = list(n.attr("activation_beta", "floats", ()))
    made = []
    for name in names:
        takes_alpha = name.lower() in ("affine", "leakyrelu", "hardsigmoid")
        takes_beta = name.lower() in ("affine", "hardsigmoid")
        alpha = alphas.pop(0) if takes_alpha and alphas else None
        beta = betas.pop(0) if takes_beta and betas else None
        made.append(_activation(name, alpha, beta))
    size = len(defaults)
    return [made[i * size : (i + 1) * size] for i in range(directions)]


def _squeezed(n: Node, v: Value, direction: int) -> Value:
    """The part of a stacked operand that belongs to a direction."""
    part = cut(n, v, {0: (direction, 1, 1)})
    return n.b("reshape", part, shape=v.shape[1:])


def _backward(n: Node, x: Value) -> Value:
    """Reverses time."""
    return n.b(
        "slice", x,
        starts=(x.shape[0] - 1, *(0,) * (x.tensor.rank - 1)),
        sizes=x.shape, steps=(-1, *(1,) * (x.tensor.rank - 1)),
    )  # fmt: skip


def _run(
    n: Node, step: Step, layer: _Layer, xs: Sequence[Value], state: list[Value]
) -> list[Value]:
    """Scans over time: the last states, then all hidden states [T, N, H]."""
    operands = [*state, *xs]
    slices = [TensorType(x.dtype, x.shape[1:]) for x in xs]
    body = Block([*(v.type for v in state), *slices])
    outer, n.importer.parents[body] = n.b, n.b.block
    n.b = Builder(body, outer.loc, outer.module)
    try:
        before, rest = body.args[: len(state)], body.args[len(state) :]
        after = step(n, layer, rest[0], list(before))
        out = after[0]
        if len(rest) > 1:
            m, alive = Math(n.b, out), rest[1]
            out = m.where(alive, out, 0.0)
            after = [m.where(alive, a, b) for a, b in zip(after, before, strict=True)]
        n.b("yield", *after, out)
    finally:
        n.b = outer
    stacked = TensorType(out.dtype, (xs[0].shape[0], *out.shape))
    types = [*(v.type for v in state), stacked]
    op = n.b.build("scan", operands, {"n_carry": len(state)}, [body], types)
    return list(op.results)


@onnx_op("RNN", "GRU", "LSTM")
def recurrent(n: Node) -> list[Value]:
    """A recurrent layer in one or two directions."""
    return _layers(n, n.op, n[1], n[2])


@onnx_op("DynamicQuantizeLSTM", domain="com.microsoft")
def quantised_lstm(n: Node) -> list[Value]:
    """An LSTM with integer weights [D, I, 4*H], which multiply values rounded to 8 bits."""

    def weight(i: int, scale: int) -> Value:
        y = n.b("cast", n[i], dtype=f32)
        if n.has(scale + 1):
            zero = _per_column(n, n.b("cast", n[scale + 1], dtype=f32))
            y = n.b("sub", y, zero)
        y = n.b("mul", y, _per_column(n, n[scale]))
        return n.b("transpose", y, perm=(0, 2, 1))

    return _layers(n, "LSTM", weight(1, 8), weight(2, 10), dynamic=True)


def rounded(m: Math, x: Value) -> Value:
    """The values that ``DynamicQuantizeLinear`` can express, which are nearest to x."""
    axes = tuple(range(x.tensor.rank))
    low = m.min(m.b("reduce.min", x, axes=axes), 0.0)
    high = m.max(m.b("reduce.max", x, axes=axes), 0.0)
    span = m.sub(high, low)
    scale = m.where(m.eq(span, 0.0), 1.0, m.div(span, 255.0))
    zero = m.clamp(m.round(m.neg(m.div(low, scale))), 0.0, 255.0)
    steps = m.clamp(m.add(m.round(m.div(x, scale)), zero), 0.0, 255.0)
    return m.mul(m.sub(steps, zero), scale)


def _per_column(n: Node, v: Value) -> Value:
    """A number for each direction, or for each column of each direction."""
    shape = (v.shape[0], 1, 1) if v.tensor.rank == 1 else (v.shape[0], 1, v.shape[1])
    return v if v.tensor.rank == 0 else n.b("reshape", v, shape=shape)


def _layers(n: Node, kind: str, w: Value, r: Value, dynamic: bool = False) -> list[Value]:
    step, gates, states, names = _CELLS[kind]
    way = n.choice("direction", "forward", ("forward", "reverse", "bidirectional"))
    directions = 2 if way == "bidirectional" else 1
    batch_first = n.flag("layout")
    x = n[0]
    if x.tensor.rank != 3 or w.tensor.rank != 3 or r.tensor.rank != 3 or w.shape[0] != directions:
        raise Refused(f"the operands {x.type}, {w.type}, {r.type} do not fit {way}")
    if batch_first:
        x = n.b("transpose", x, perm=(1, 0, 2))
    if dynamic:
        x = rounded(Math(n.b, x), x)
    length, batch, _ = x.shape
    hidden = r.shape[2]
    activations = _activations(n, names, directions)
    alive = None
    if n.has(4):
        time = n.b("reshape", n.b("iota", size=length, dtype=i64), shape=(length, 1, 1))
        lens = n.b("reshape", n.b("cast", n[4], dtype=i64), shape=(1, batch, 1))
        alive = n.b("lt", time, lens)
    finals: list[list[Value]] = []
    for d in range(directions):
        reverse = way == "reverse" or d == 1
        layer = _Layer(
            hidden, activations[d], n.attr("clip", "float", None),
            n.b("transpose", _squeezed(n, r, d), perm=(1, 0)), None,
            _squeezed(n, n[7], d) if kind == "LSTM" and n.has(7) else None,
            n.flag("linear_before_reset"), n.flag("input_forget"), dynamic,
        )  # fmt: skip
        rows = n.b("matmul", x, n.b("transpose", _squeezed(n, w, d), perm=(1, 0)))
        if n.has(3):
            rows = n.b("add", rows, _bias(n, layer, _squeezed(n, n[3], d), gates))
        xs = [rows] if alive is None else [rows, alive]
        xs = [_backward(n, v) for v in xs] if reverse else xs
        state = []
        for i in range(states):
            if n.has(5 + i):
                first = n.b("transpose", n[5 + i], perm=(1, 0, 2)) if batch_first else n[5 + i]
                state.append(_squeezed(n, first, d))
            else:
                state.append(n.b("broadcast", n.const(0, x.dtype), shape=(batch, hidden)))
        results = _run(n, step, layer, xs, state)
        if reverse:
            results[-1] = _backward(n, results[-1])
        finals.append(results)
    return _outputs(n, finals, states, batch_first)


def _bias(n: Node, layer: _Layer, bias: Value, gates: int) -> Value:
    """The bias that is added outside of the loop; keeps the other in the layer."""
    half = gates * layer.hidden
    outside, inside = (cut(n, bias, {0: (at, half, 1)}) for at in (0, half))
    if not (gates == 3 and layer.reset_after):
        return n.b("add", outside, inside)
    layer.bias = layer.gate(n, inside, 2)
    both = n.b("add", layer.gate(n, outside, 0, 2), layer.gate(n, inside, 0, 2))
    return n.b("concat", both, layer.gate(n, outside, 2), axis=0)


def _outputs(n: Node, finals: list[list[Value]], states: int, batch_first: bool) -> list[Value]:
    """Y [T, D, N, H] and the last states [D, N, H]; the batch is first with layout=1."""

    def joined(values: list[Value], axis: int) -> Value:
        parts = []
        for v in values:
            shape = list(v.shape)
            shape.insert(axis, 1)
            parts.append(n.b("reshape", v, shape=shape))
        return parts[0] if len(parts) == 1 else n.b("concat", *parts, axis=axis)

    y = joined([f[-1] for f in finals], 1)
    last = [joined([f[i] for f in finals], 0) for i in range(states)]
    if batch_first:
        y = n.b("transpose", y, perm=(2, 0, 1, 3))
        last = [n.b("transpose", v, perm=(1, 0, 2)) for v in last]
    return [y, *last]
