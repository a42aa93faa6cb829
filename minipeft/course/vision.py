"""A small world of pictures, for the first transfer of all: digits drawn here, then letters.

    images, labels = vision.draw(vision.DIGITS, 2000, seed=0)     # (N, 1, 16, 16), (N,)
    model = vision.ConvNet(classes=10)
    model(images, labels).loss

A glyph is a few strokes on a grid of three by five points. Every picture of it is leaning, turned,
stretched and moved, its corners are shaken, a stray stroke and noise lie over it.

| part of ConvNet | what it does                            | parameters            |
|-----------------|-----------------------------------------|-----------------------|
| convolutions    | 16 x 16 points -> 32 maps of 4 x 4      | 80 + 1,168 + 4,640     |
| head            | fully connected: 512 numbers -> classes | 512 classes + classes |
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

import tiny_transformer as tt

SIZE = 16  # points per side of a picture
GLYPHS = {  # strokes through points "xy", x from left 0 to 2, y from top 0 to 4
    "0": "00 20 24 04 00",
    "1": "02 10 14",
    "2": "00 20 22 02 04 24",
    "3": "00 20 24 04 | 12 22",
    "4": "10 02 22 | 20 24",
    "5": "20 00 02 22 24 04",
    "6": "20 00 04 24 22 02",
    "7": "00 20 14",
    "8": "00 20 24 04 00 | 02 22",
    "9": "22 02 00 20 24 04",
    "a": "04 10 24 | 03 23",
    "e": "20 00 04 24 | 02 12",
    "f": "20 00 04 | 02 12",
    "h": "00 04 | 20 24 | 02 22",
    "k": "00 04 | 20 02 24",
    "m": "04 00 12 20 24",
    "n": "04 00 24 20",
    "p": "04 00 20 22 02",
    "t": "00 20 | 10 14",
    "x": "00 24 | 20 04",
}
DIGITS, LETTERS = "0123456789", "aefhkmnptx"


def draw(glyphs: str, count: int, seed: int, noise: float = 0.15) -> tuple[Tensor, Tensor]:
    """Pictures of glyphs, as many of each as possible, in random order.

    Args:
        glyphs: the classes, such as DIGITS; class i is the i-th.
        count: N, how many pictures.
        seed: the same seed gives the same pictures.
        noise: standard deviation of the noise on every point; ink is 1, paper 0.

    Returns:
        images (N, 1, 16, 16) and labels (N,).

    Raises:
        ValueError: a glyph that nobody has drawn.
    """
    unknown = sorted(set(glyphs) - set(GLYPHS))
    if unknown:
        raise ValueError(f"There is no glyph {unknown[0]!r}; choose of {''.join(GLYPHS)}.")
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(glyphs))
    images = np.stack([_picture(glyphs[label], rng) for label in labels])  # (N, 16, 16)
    images += noise * rng.standard_normal(images.shape)
    return torch.tensor(images, dtype=torch.float32)[:, None], torch.tensor(labels)


def _picture(glyph: str, rng: np.random.Generator) -> np.ndarray:
    """One glyph, distorted: (16, 16), ink 1 on paper 0."""
    angle, lean = rng.normal(0, 0.15), rng.normal(0, 0.2)
    width, height = rng.uniform(2.8, 4.6), rng.uniform(2.0, 2.8)  # picture points per grid step
    across = np.array([[width, 0], [lean * height, height]])
    turned = across @ [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]  # (2, 2)
    middle = (SIZE - 1) / 2 + rng.uniform(-1.5, 1.5, 2)
    starts, ends = [], []
    for stroke in GLYPHS[glyph].split("|"):
        points = np.array([[int(x), int(y)] for x, y in stroke.split()], dtype=float)
        points = (points + rng.normal(0, 0.1, points.shape) - [1, 2]) @ turned + middle
        starts += list(points[:-1])
        ends += list(points[1:])
    for _ in range(1):  # a stray stroke: short, anywhere
        start = rng.uniform(0, SIZE, 2)
        starts.append(start)
        ends.append(start + rng.normal(0, 2, 2))
    return _ink(np.array(starts), np.array(ends), rng.uniform(0.3, 0.8))


def _ink(starts: np.ndarray, ends: np.ndarray, thick: float) -> np.ndarray:
    """How dark every point of the picture is: by its distance to the nearest of S strokes."""
    y, x = np.mgrid[:SIZE, :SIZE]
    points = np.stack([x.ravel(), y.ravel()], axis=1)[:, None]  # (256, 1, 2)
    along = ends - starts  # (S, 2)
    share = ((points - starts) * along).sum(-1) / ((along**2).sum(-1) + 1e-9)  # (256, S)
    foot = starts + share.clip(0, 1)[..., None] * along  # (256, S, 2)
    distance = np.linalg.norm(points - foot, axis=-1).min(axis=1)  # (256,)
    return (1 + thick - distance).clip(0, 1).reshape(SIZE, SIZE) ** 2


class ConvNet(nn.Module):
    """Three convolutions and a fully connected head.

    Args:
        classes: how many classes the head knows.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *[nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)],  # (B, 8, 8, 8)
            *[nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)],  # (B, 16, 4, 4)
            *[nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()],  # (B, 32, 4, 4)
        )
        self.head = nn.Linear(32 * 4 * 4, classes)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> tt.Output:
        """Images (B, 1, 16, 16) and perhaps labels (B,) -> Output with logits (B, classes)."""
        states = self.convolutions(images).flatten(1)  # (B, 512)
        logits = self.head(states)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return tt.Output(logits, loss, states)
