"""Exact savings of a training step, each beside the plain loss that it must equal."""
