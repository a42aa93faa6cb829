"""The picture world of lesson 03: what is drawn, and what the network holds."""

import numpy as np
import pytest
import torch

from minipeft.course import vision


def test_the_same_seed_draws_the_same_pictures():
    images, labels = vision.draw("017", 12, seed=4)
    again, _ = vision.draw("017", 12, seed=4)
    other, _ = vision.draw("017", 12, seed=5)
    assert images.shape == (12, 1, 16, 16) and images.dtype == torch.float32
    assert torch.equal(images, again) and not torch.equal(images, other)
    assert labels.bincount().tolist() == [4, 4, 4]


def test_ink_falls_off_with_the_distance_to_the_stroke():
    """A level stroke through row 5, from column 2 to column 9, of thickness 1/2."""
    picture = vision._ink(np.array([[2.0, 5.0]]), np.array([[9.0, 5.0]]), thick=0.5)
    assert np.allclose(picture[5, 2:10], 1)
    assert np.allclose(picture[[4, 6], 2:10], 0.25)  # distance 1: (1 + 1/2 - 1) squared
    assert np.allclose(picture[[3, 7]], 0)
    assert np.allclose(picture[5, [1, 10]], 0.25) and np.allclose(picture[5, [0, 11]], 0)


def test_every_glyph_can_be_drawn_and_an_unknown_one_is_refused():
    for glyph in vision.DIGITS + vision.LETTERS:
        image, _ = vision.draw(glyph, 1, seed=0, noise=0.0)
        assert 10 < image.sum() < 160  # some ink, and some paper
    with pytest.raises(ValueError, match="no glyph '.'"):
        vision.draw("1?", 2, seed=0)


def test_the_network_is_as_large_as_its_table_says():
    model = vision.ConvNet(classes=7)
    count = sum(p.numel() for p in model.convolutions.parameters())
    assert count == 80 + 1168 + 4640
    assert sum(p.numel() for p in model.head.parameters()) == 512 * 7 + 7
    images, labels = vision.draw("0123456", 5, seed=0)
    out = model(images, labels)
    assert out.logits.shape == (5, 7) and out.states.shape == (5, 512)
    assert torch.isclose(out.loss, torch.nn.functional.cross_entropy(out.logits, labels))
    assert model(images).loss is None
