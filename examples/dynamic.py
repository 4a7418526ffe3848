"""Control flow on values, compiled as it is: ``python examples/dynamic.py``.

An integrator with a step that adapts: how often it steps, and whether it accepts a step, depends on
the data. It is plain NumPy; the compiled one is a native loop.
"""

from time import perf_counter

import numpy as np

import pjit


def pendulum(angle: np.ndarray, until: float, tolerance: float = 1e-6) -> tuple:
    """Swings pendulums until a time; gives their angles and the number of steps."""
    state = np.stack([angle, np.zeros_like(angle)])
    time, step, steps = 0.0, 0.01, 0

    def slope(s):
        return np.stack([s[1], -np.sin(s[0])])

    while time < until:
        a = slope(state)
        b = slope(state + step * a)
        euler, heun = state + step * a, state + step * (a + b) / 2
        error = np.abs(heun - euler).max()
        if error < tolerance:
            state, time, steps = heun, time + step, steps + 1
        step = min(step * float(np.clip(0.9 * (tolerance / error) ** 0.5, 0.2, 2.0)), until - time)
        if step < 1e-12:
            break
    return state[0], steps


def main() -> None:
    """Compares the two."""
    angles = np.linspace(0.1, 3.0, 64)
    compiled = pjit.compile(pendulum)
    compiled(angles, 0.5)  # traces and compiles
    for function in (pendulum, compiled):
        began = perf_counter()
        angle, steps = function(angles, 0.5)
        last = float(np.asarray(angle)[-1])
        print(f"{steps} steps, last angle {last:.6f}, {(perf_counter() - began) * 1e3:.1f} ms")
    print(f"native loops: {compiled.ir().count(' = while ')}")


if __name__ == "__main__":
    main()
