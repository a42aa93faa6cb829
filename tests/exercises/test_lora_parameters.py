"""The number that LoRA trains: forms of the right one, and where wrong ones come from."""

from fractions import Fraction

import numpy as np
import pytest
import torch

import minipeft as mp
import tiny_transformer as tt
from minipeft import checks


def test_the_answer_is_what_the_package_counts():
    base, _ = tt.load("tiny-decoder-0.4m")
    lora = mp.LoRA(rank=8, alpha=16, targets=("query", "value"))
    tuner = mp.attach(base, lora, name="counted", seed=0)
    assert checks.lora_parameters.right == sum(p.numel() for p in tuner.parameters())


@pytest.mark.parametrize(
    "answer",
    [10240, 10240.0, 4 * 2 * 8 * 160, torch.tensor(10240), torch.tensor(10240.0).sum(),
     np.int64(10240), np.array(10240), Fraction(20480, 2), lambda: 10240, torch.Size([10240])[0]],
)  # fmt: skip
def test_the_right_number_in_any_form_is_accepted(answer):
    checks.lora_parameters(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (1280, "one map of one layer"),
        (2560, "the model has 4"),
        (5120, "query and value both"),
        (20480, "twice as many"),
        (51200, "full fine-tuning"),
        (409600, "A and B are two matrices"),
        (10241, "off by one"),
        (-10240, "the sign is wrong"),
        (40960, "4 times too large"),
        (12345, "too large, by a factor of 1.21"),
        ("10240", "not '10240': that is text"),
        ([10240], "should be a number, not a list"),
        (None, "is a return missing"),
        (True, "should be a number, not a bool"),
        (float("nan"), "is not nan"),
        (lambda: 1 / 0, "ZeroDivisionError"),
        (checks.lora_parameters, "this is the check itself"),
    ],
)
def test_a_wrong_number_is_told_where_it_comes_from(answer, words):
    with pytest.raises(checks.CheckFailed, match=words):
        checks.lora_parameters(answer)
