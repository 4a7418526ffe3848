"""Train the example network: a small CNN on scikit-learn's 8x8 digits, in plain NumPy.

Writes ``digits.onnx`` (the trained network) and ``digits_test.npz`` (the held-out images and
labels) beside this file. Needs scikit-learn, for the data only: ``pip install scikit-learn``.

The images are the test half of "Optical Recognition of Handwritten Digits" (E. Alpaydin and
C. Kaynak, UCI Machine Learning Repository, 1998), as scikit-learn ships them.
"""

# ruff: noqa: D102  (forward and backward are documented once, on Layer)
from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

HERE = Path(__file__).resolve().parent
SEED = 0
EPOCHS = 20
BATCH = 64
TEST_IMAGES = 360
BN_EPSILON = 1e-5
BN_MOMENTUM = 0.9

Tensors = dict[str, np.ndarray]


class Layer(Protocol):
    """One differentiable step on NHWC float32 arrays; gradients land in ``grads``."""

    params: Tensors
    grads: Tensors

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        """Compute the layer and keep what ``backward`` needs."""

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """Return the gradient of the input; store those of the parameters."""


class Conv3x3:
    """3x3 convolution, stride 1, zero padding 1, no bias (the normalization has one)."""

    def __init__(self, cin: int, cout: int, rng: np.random.Generator):
        scale = np.sqrt(2.0 / (9 * cin))
        self.params = {"weight": (rng.standard_normal((cin * 9, cout)) * scale).astype(np.float32)}
        self.grads: Tensors = {}

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        n, h, w, c = x.shape
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = sliding_window_view(padded, (3, 3), axis=(1, 2))  # n, h, w, c, 3, 3
        self.shape = x.shape
        self.columns = windows.reshape(n * h * w, c * 9)
        return (self.columns @ self.params["weight"]).reshape(n, h, w, -1)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        n, h, w, c = self.shape
        rows = dy.reshape(n * h * w, -1)
        self.grads = {"weight": self.columns.T @ rows}
        columns = (rows @ self.params["weight"].T).reshape(n, h, w, c, 3, 3)
        dx = np.zeros((n, h + 2, w + 2, c), np.float32)
        for i in range(3):
            for j in range(3):
                dx[:, i : i + h, j : j + w] += columns[..., i, j]
        return dx[:, 1:-1, 1:-1]


class BatchNorm:
    """Batch normalization over the last axis, with running statistics for inference."""

    def __init__(self, channels: int):
        self.params = {
            "scale": np.ones(channels, np.float32),
            "bias": np.zeros(channels, np.float32),
        }
        self.grads: Tensors = {}
        self.mean = np.zeros(channels, np.float32)
        self.var = np.ones(channels, np.float32)

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        mean, var = self.mean, self.var
        if training:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            self.mean = BN_MOMENTUM * self.mean + (1 - BN_MOMENTUM) * mean
            self.var = BN_MOMENTUM * self.var + (1 - BN_MOMENTUM) * var
        self.inv_std = 1 / np.sqrt(var + BN_EPSILON)
        self.normalized = (x - mean) * self.inv_std
        return self.normalized * self.params["scale"] + self.params["bias"]

    def backward(self, dy: np.ndarray) -> np.ndarray:
        xhat = self.normalized
        dscale, dbias = (dy * xhat).sum((0, 1, 2)), dy.sum((0, 1, 2))
        self.grads = {"scale": dscale, "bias": dbias}
        count = dy.size // dy.shape[-1]
        centred = dy - (dbias + xhat * dscale) / count
        return self.params["scale"] * self.inv_std * centred


class Relu:
    """max(x, 0)."""

    params: Tensors = {}
    grads: Tensors = {}

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        self.positive = x > 0
        return x * self.positive

    def backward(self, dy: np.ndarray) -> np.ndarray:
        return dy * self.positive


class MaxPool2:
    """2x2 maximum, stride 2; the gradient of a tie is shared equally."""

    params: Tensors = {}
    grads: Tensors = {}

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        n, h, w, c = x.shape
        blocks = x.reshape(n, h // 2, 2, w // 2, 2, c)
        top = blocks.max((2, 4), keepdims=True)
        self.is_top = blocks == top
        return top.reshape(n, h // 2, w // 2, c)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        n, h, w, c = dy.shape
        share = self.is_top / self.is_top.sum((2, 4), keepdims=True, dtype=np.float32)
        return (share * dy.reshape(n, h, 1, w, 1, c)).reshape(n, 2 * h, 2 * w, c)


class GlobalAveragePool:
    """Mean over the image: NHWC -> NC."""

    params: Tensors = {}
    grads: Tensors = {}

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        self.shape = x.shape
        return x.mean((1, 2))

    def backward(self, dy: np.ndarray) -> np.ndarray:
        _, h, w, _ = self.shape
        return np.broadcast_to(dy[:, None, None, :] / np.float32(h * w), self.shape)


class Linear:
    """x @ weight + bias."""

    def __init__(self, cin: int, cout: int, rng: np.random.Generator):
        self.params = {
            "weight": (rng.standard_normal((cin, cout)) / np.sqrt(cin)).astype(np.float32),
            "bias": np.zeros(cout, np.float32),
        }
        self.grads: Tensors = {}

    def forward(self, x: np.ndarray, training: bool) -> np.ndarray:
        self.x = x
        return x @ self.params["weight"] + self.params["bias"]

    def backward(self, dy: np.ndarray) -> np.ndarray:
        self.grads = {"weight": self.x.T @ dy, "bias": dy.sum(0)}
        return dy @ self.params["weight"].T


class Adam:
    """Adam (Kingma and Ba, 2015), https://arxiv.org/abs/1412.6980."""

    def __init__(self, layers: list[Layer], beta1: float = 0.9, beta2: float = 0.999):
        self.layers = layers
        self.beta1, self.beta2 = beta1, beta2
        self.first = [{k: np.zeros_like(v) for k, v in layer.params.items()} for layer in layers]
        self.second = [{k: np.zeros_like(v) for k, v in layer.params.items()} for layer in layers]
        self.step_count = 0

    def step(self, rate: float) -> None:
        """Update every parameter in place from the gradients of the last backward pass."""
        self.step_count += 1
        correct1 = 1 - self.beta1**self.step_count
        correct2 = 1 - self.beta2**self.step_count
        for layer, first, second in zip(self.layers, self.first, self.second, strict=True):
            for key, param in layer.params.items():
                grad = layer.grads[key]
                first[key] += (1 - self.beta1) * (grad - first[key])
                second[key] += (1 - self.beta2) * (grad * grad - second[key])
                update = (first[key] / correct1) / (np.sqrt(second[key] / correct2) + 1e-8)
                param -= np.float32(rate) * update


def build(rng: np.random.Generator) -> list[Layer]:
    """The untrained network, as a list of layers."""
    return [
        *(Conv3x3(1, 16, rng), BatchNorm(16), Relu()),
        *(Conv3x3(16, 32, rng), BatchNorm(32), Relu(), MaxPool2()),
        *(Conv3x3(32, 32, rng), BatchNorm(32), Relu()),
        *(GlobalAveragePool(), Linear(32, 10, rng)),
    ]


def forward(layers: list[Layer], images: np.ndarray, training: bool = False) -> np.ndarray:
    """Logits f32[N,10] of images f32[N,8,8,1]."""
    x = images
    for layer in layers:
        x = layer.forward(x, training)
    return x


def train(layers: list[Layer], images: np.ndarray, labels: np.ndarray) -> None:
    """Fit the layers in place: cross entropy, Adam, a cosine learning rate."""
    rng = np.random.default_rng(SEED)
    optimizer = Adam(layers)
    steps = EPOCHS * (len(images) // BATCH)
    for epoch in range(EPOCHS):
        losses = []
        order = rng.permutation(len(images))
        for start in range(0, len(images) - BATCH + 1, BATCH):
            picked = order[start : start + BATCH]
            logits = forward(layers, images[picked], training=True)
            shifted = logits - logits.max(1, keepdims=True)
            log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
            target = labels[picked]
            losses.append(-log_p[np.arange(BATCH), target].mean())
            gradient = (np.exp(log_p) - np.eye(10, dtype=np.float32)[target]) / np.float32(BATCH)
            for layer in reversed(layers):
                gradient = layer.backward(gradient)
            optimizer.step(5e-3 * 0.5 * (1 + np.cos(np.pi * optimizer.step_count / steps)))
        print(f"epoch {epoch + 1:2}: loss {np.mean(losses):.4f}")


def to_onnx(layers: list[Layer], accuracy: float) -> onnx.ModelProto:
    """The trained layers as an ONNX model (opset 17, NCHW, free batch dimension ``N``)."""
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []
    counts: dict[str, int] = {}
    current = "image"

    def emit(op: str, tensors: Tensors, **attributes: Any) -> None:
        nonlocal current
        counts[op] = counts.get(op, 0) + 1
        name = f"{op.lower()}{counts[op]}"
        for key, value in tensors.items():
            array = np.ascontiguousarray(value, np.float32)
            initializers.append(numpy_helper.from_array(array, f"{name}.{key}"))
        inputs = [current, *(f"{name}.{key}" for key in tensors)]
        nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        current = name

    for layer in layers:
        match layer:
            case Conv3x3():
                cout = layer.params["weight"].shape[1]
                weight = layer.params["weight"].reshape(-1, 3, 3, cout).transpose(3, 0, 1, 2)
                emit("Conv", {"weight": weight}, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
            case BatchNorm():
                tensors = {**layer.params, "mean": layer.mean, "var": layer.var}
                emit("BatchNormalization", tensors, epsilon=BN_EPSILON)
            case Relu():
                emit("Relu", {})
            case MaxPool2():
                emit("MaxPool", {}, kernel_shape=[2, 2], strides=[2, 2])
            case GlobalAveragePool():
                emit("GlobalAveragePool", {})
                emit("Flatten", {}, axis=1)
            case Linear():
                emit("Gemm", layer.params)
            case _:
                raise TypeError(f"no ONNX operator for {type(layer).__name__}")
    nodes[-1].output[0] = "logits"

    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        initializers,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
        producer_name="examples/digits/train.py",
        doc_string="A small CNN for scikit-learn's 8x8 digits (grey levels divided by 16), "
        "trained in NumPy by pjit's examples/digits/train.py.",
    )
    helper.set_model_props(
        model,
        {
            "seed": str(SEED),
            "epochs": str(EPOCHS),
            "held_out_images": str(TEST_IMAGES),
            "held_out_accuracy": f"{accuracy:.4f}",
            "data": "Optical Recognition of Handwritten Digits, UCI, by way of scikit-learn",
        },
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Train, check on the held-out images and write both files."""
    start = time.perf_counter()
    data = load_digits()
    images = (data.images / 16).astype(np.float32)[..., None]
    labels = data.target.astype(np.int64)
    order = np.random.default_rng(SEED).permutation(len(images))
    test, rest = order[:TEST_IMAGES], order[TEST_IMAGES:]

    layers = build(np.random.default_rng(SEED))
    train(layers, images[rest], labels[rest])
    accuracy = float((forward(layers, images[test]).argmax(1) == labels[test]).mean())
    print(f"held out: {accuracy:.2%} of {TEST_IMAGES} in {time.perf_counter() - start:.1f} s")

    onnx.save(to_onnx(layers, accuracy), HERE / "digits.onnx")
    np.savez_compressed(
        HERE / "digits_test.npz", image=images[test].transpose(0, 3, 1, 2), label=labels[test]
    )


if __name__ == "__main__":
    main()
