"""The frozen model: where it keeps its parts, and what its weights are."""
