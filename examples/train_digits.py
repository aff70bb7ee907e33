"""Trains a small network on handwritten digits with numpy alone, and tracks what that uses.

    python examples/train_digits.py [--epochs 60] [--seed 0]

The data are real and lie beside this file: see README.md here.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np

import tracker

PIXELS = 64
CLASSES = 10
HIDDEN = 512
BATCH = 32
TRAINING_IMAGES = 1400  # of 1797; the rest tests
LEARNING_RATE = 0.05
MOMENTUM = 0.9


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 64) with pixels from 0 to 1, and their digits (n,)."""
    table = np.loadtxt(path, delimiter=",")
    return table[:, :PIXELS] / 16, table[:, PIXELS].astype(int)


class Network:
    """Two hidden layers of rectified units and a softmax."""

    def __init__(self, rng: np.random.Generator) -> None:
        sizes = (PIXELS, HIDDEN, HIDDEN, CLASSES)
        self.weights = [rng.normal(0, np.sqrt(2 / n), (n, m)) for n, m in pairwise(sizes)]
        self.biases = [np.zeros(m) for m in sizes[1:]]
        self.velocities = [np.zeros_like(p) for p in (*self.weights, *self.biases)]

    def forward(self, images: np.ndarray) -> list[np.ndarray]:
        """The activations of every layer, the input first and the probabilities last."""
        layers = [images]
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            layers.append(np.maximum(layers[-1] @ weight + bias, 0))
        scores = layers[-1] @ self.weights[-1] + self.biases[-1]
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        layers.append(scores / scores.sum(axis=1, keepdims=True))
        return layers

    def step(self, images: np.ndarray, digits: np.ndarray) -> float:
        """One step of gradient descent with momentum; the batch's mean loss before it."""
        layers = self.forward(images)
        batch = np.arange(len(digits))
        loss = -np.log(layers[-1][batch, digits] + 1e-12).mean()
        error = layers[-1].copy()
        error[batch, digits] -= 1
        error /= len(digits)
        slopes: list[tuple[np.ndarray, np.ndarray]] = []
        for layer, weight in zip(reversed(layers[:-1]), reversed(self.weights), strict=True):
            slopes.append((layer.T @ error, error.sum(axis=0)))
            error = (error @ weight.T) * (layer > 0)
        slopes.reverse()
        parameters = (*self.weights, *self.biases)
        for parameter, velocity, slope in zip(
            parameters, self.velocities, (*(w for w, _ in slopes), *(b for _, b in slopes)), strict=True
        ):
            velocity *= MOMENTUM
            velocity -= LEARNING_RATE * slope
            parameter += velocity
        return float(loss)

    def accuracy(self, images: np.ndarray, digits: np.ndarray) -> float:
        return float((self.forward(images)[-1].argmax(axis=1) == digits).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    rng = np.random.default_rng(arguments.seed)
    images, digits = load(Path(__file__).with_name("digits.csv.gz"))
    order = rng.permutation(len(images))
    train, test = order[:TRAINING_IMAGES], order[TRAINING_IMAGES:]
    network = Network(rng)

    with tracker.track("digits", project="demo") as run:
        for epoch in range(arguments.epochs):
            with run.span("epoch", index=epoch):
                order = rng.permutation(train)
                losses = [network.step(images[b], digits[b]) for b in np.array_split(order, len(order) // BATCH)]
                run.mark(epoch=epoch, loss=float(np.mean(losses)), samples=(epoch + 1) * len(order))
            if (epoch + 1) % 10 == 0:
                print(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}")
    print(f"accuracy on {len(test)} images never trained on: {network.accuracy(images[test], digits[test]):.1%}")


if __name__ == "__main__":
    main()
