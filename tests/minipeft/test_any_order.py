"""Whatever is done with tuners, in whatever order: the base is sacred."""

from soak import orders


def test_steps_in_any_order():
    """What `make soak` does ten thousand times: a hypothesis machine draws the steps."""
    orders.run(0, 200)
