"""Classify held-out digits with the network beside this file: ``python classify.py``.

Prints the accuracy on 360 images that the training never saw, the time of a batch of 60, and one
image with its prediction. ``train.py`` is the program that made both files.
"""

import time
from pathlib import Path

import numpy as np

import pjit

HERE = Path(__file__).resolve().parent
BATCH = 60
SHADES = " .:-=+*#%@"


def picture(image: np.ndarray) -> str:
    """An image f32[8,8] of values in 0..1 as text, two characters a pixel."""
    levels = np.rint(image * (len(SHADES) - 1)).astype(int)
    return "\n".join("".join(SHADES[level] * 2 for level in row) for row in levels)


def main() -> None:
    """Load the network, run every held-out image and report."""
    model = pjit.load(HERE / "digits.onnx")
    held_out = np.load(HERE / "digits_test.npz")
    images, labels = held_out["image"], held_out["label"]

    predictions: list[int] = []
    seconds: list[float] = []
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        begin = time.perf_counter()
        logits = np.asarray(model.run({"image": batch})["logits"])  # np.asarray waits
        seconds.append(time.perf_counter() - begin)
        predictions.extend(logits.argmax(axis=1).tolist())

    correct = np.array(predictions) == labels
    print(f"accuracy: {correct.mean():.2%} ({correct.sum()} of {len(labels)})")
    print(f"time: {min(seconds) * 1e6:.0f} µs for a batch of {BATCH} (fastest of {len(seconds)};")
    print(f"      the first took {seconds[0] * 1e3:.1f} ms)")
    print(picture(images[0, 0]))
    print(f"prediction: {predictions[0]}, label: {labels[0]}")


if __name__ == "__main__":
    main()
