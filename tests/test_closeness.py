"""What the tests compare with: red for what float64 would not round off, in numbers of any kind."""

import pytest
import torch
from closeness import close


def test_numbers_of_python_keep_their_digits():
    """Each of them has 53 bits; a float32 between them would have 24."""
    right = torch.tensor(2 / 3, dtype=torch.float64)
    close(2 / 3, right)
    close([1 / 3, 2 / 3], right * torch.tensor([0.5, 1.0], dtype=torch.float64))
    for wrong in (2 / 3 + 1e-9, right + 1e-9):
        with pytest.raises(AssertionError):
            close(wrong, 2 / 3)
        with pytest.raises(AssertionError):
            close(2 / 3, wrong)
