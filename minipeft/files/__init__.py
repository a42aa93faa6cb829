"""Adapters in files: `saving` writes and reads folders, `peft` knows the layout of 🤗 PEFT."""

from minipeft.files.saving import load, save

__all__ = ["load", "save"]
