"""TransformerConfig refuses what it does not know and what cannot be."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny_transformer as tt

SIZES = {"vocab_size": 9, "width": 8, "layers": 1, "heads": 2}


@pytest.mark.parametrize("layout", ["gpt2", "bert", "bart"])
def test_an_unknown_field_is_refused(layout):
    with pytest.raises(ValueError, match="no field hidden_size; it has vocab_size, width"):
        getattr(tt.TransformerConfig, layout)(**SIZES, hidden_size=8)
    with pytest.raises(ValueError, match="no field hidden_size"):
        tt.TransformerConfig.from_dict(SIZES | {"hidden_size": 8})
    with pytest.raises(TypeError):
        tt.TransformerConfig(**SIZES, hidden_size=8)


@pytest.mark.parametrize(
    "field, value",
    [
        *(("vocab_size", value) for value in (0, -1, 2.0, "9", True, None)),
        *(("width", value) for value in (0, 8.0)),
        *(("layers", value) for value in (0, -2)),
        *(("heads", value) for value in (0, 3, 16)),
        *(("positions", value) for value in (0, None)),
        *(("inner", value) for value in (0, 1.5)),
        *(("decoder_layers", value) for value in (0, -1)),
        *(("dropout", value) for value in (-0.1, 1.0, 2)),
        *(("norm", value) for value in ("rms", None)),
        *(("activation", value) for value in ("swish", None)),
        *(("kind", value) for value in ("gpt2", None)),
        *(("token_types", value) for value in (-1, 0.5)),
        *(("position_offset", value) for value in (-1, None)),
        *(("norm_epsilon", value) for value in (0, -1e-5)),
        *(("initializer_range", value) for value in (0.0, -0.02)),
    ],
)
def test_an_impossible_value_is_refused(field, value):
    with pytest.raises(ValueError, match=field) as caught:
        tt.TransformerConfig(**SIZES | {field: value})
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        tt.TransformerConfig(**SIZES).width = 3


@given(
    heads=st.integers(1, 5),
    D=st.integers(1, 7),
    inner=st.none() | st.integers(1, 99),
    layout=st.sampled_from(["gpt2", "bert", "bart"]),
)
def test_to_dict_and_back(heads, D, inner, layout):
    make = getattr(tt.TransformerConfig, layout)
    config = make(vocab_size=5, width=heads * D, heads=heads, layers=2, inner=inner)
    assert tt.TransformerConfig.from_dict(config.to_dict()) == config
    assert config.head_width == D
    assert config.inner_width == (4 * heads * D if inner is None else inner)


def test_the_layouts():
    """What the papers say: GPT-2 pre-norm, BERT and BART post-norm with exact GELU."""
    gpt2, bert, bart = (
        getattr(tt.TransformerConfig, layout)(**SIZES) for layout in ("gpt2", "bert", "bart")
    )
    assert (gpt2.kind, gpt2.norm, gpt2.activation) == ("decoder", "pre", "gelu_tanh")
    assert (bert.kind, bert.norm, bert.activation) == ("encoder", "post", "gelu")
    assert (bart.kind, bart.norm, bart.activation) == ("encoder-decoder", "post", "gelu")
    assert (gpt2.token_types, bert.token_types, bart.token_types) == (0, 2, 0)
