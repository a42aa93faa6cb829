"""tiny_transformer: the frozen thing. A decoder, an encoder and an encoder-decoder, by hand."""

from . import process  # noqa: F401  it must come before torch is loaded

# isort: split
from . import objectives
from .attention import Attention, attend, causal_mask
from .checkpoints import data_folder, load, save
from .config import TransformerConfig
from .generation import generate
from .heads import ClassificationHead, LanguageHead, TaggingHead, cross_entropy
from .layers import Block, FeedForward
from .models import Decoder, Encoder, EncoderDecoder, Output
from .pretraining import pretrain
from .tokenizer import WordTokenizer

__all__ = [
    "Attention",
    "Block",
    "ClassificationHead",
    "Decoder",
    "Encoder",
    "EncoderDecoder",
    "FeedForward",
    "LanguageHead",
    "Output",
    "TaggingHead",
    "TransformerConfig",
    "WordTokenizer",
    "attend",
    "causal_mask",
    "cross_entropy",
    "data_folder",
    "generate",
    "load",
    "objectives",
    "pretrain",
    "save",
]
