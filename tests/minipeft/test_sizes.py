"""The page on 70 B: its table is what the command prints, and the counts are right."""

from pathlib import Path

import pytest

from minipeft.analysis import sizes

PAGE = Path(__file__).parents[2] / "docs" / "at_70b.md"


@pytest.fixture(scope="module")
def counts():
    return sizes.columns()


def test_the_page_shows_what_the_command_prints():
    page = PAGE.read_text(encoding="utf-8")
    printed = page.split("<!-- sizes -->")[1].split("<!-- /sizes -->")[0]
    assert printed.strip().removeprefix("```").removesuffix("```").strip() == str(sizes.table())


def test_published_and_hand_counted_numbers(counts):
    assert counts["full"]["numbers in training"] == 70_553_706_496  # Llama 3 70B
    C, inner, kv, L = 8192, 28672, 1024, 80
    ends = 2 * (C + C) + 2 * (C + kv) + 3 * (C + inner)  # in + out of q o, k v, gate up down
    assert counts["LoRA"]["numbers in training"] == 16 * ends * L
    linear = (2 * C * C + 2 * C * kv + 3 * C * inner) * L
    saved = counts["LoRA"]["weights, frozen and new"] - counts["QLoRA"]["weights, frozen and new"]
    assert saved == pytest.approx(linear * (16 - 4 - 8 / 64 - 32 / (64 * 256)) / 8)


def test_the_straight_line_meets_the_third_layer():
    small = sizes.SHAPE | dict(vocab_size=64, hidden_size=64, intermediate_size=96)
    small |= dict(num_attention_heads=4, num_key_value_heads=2)
    one, two, three = (sizes.count(n, 4, small, tokens=16) for n in (1, 2, 3))
    assert one.at(two, 3) == three
