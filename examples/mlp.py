"""Compile a NumPy function with a decorator: ``python mlp.py``.

The first call traces ``mlp`` and compiles it; later calls with the same types run native code.
"""

import numpy as np

import pjit


@pjit.compile
def mlp(x, w1, b1, w2):
    """A two-layer perceptron: f32[N,64] to f32[N,10]."""
    return np.maximum(x @ w1 + b1, 0) @ w2


def main() -> None:
    """Run the network, compare with NumPy and show what was compiled."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    x, w1, b1, w2 = normal(4, 64), normal(64, 64), normal(64), normal(64, 10)

    y = mlp(x, w1, b1, w2)  # a pjit.Array, at once
    result = np.asarray(y)  # waits
    expected = np.maximum(x @ w1 + b1, 0) @ w2
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)
    print(f"result {result.dtype}{list(result.shape)}, equal to NumPy's; the first row:")
    print(result[0])

    print("\nThe graph:")
    print(mlp.ir())
    print("\nThe report:")
    print(mlp.report())


if __name__ == "__main__":
    main()
