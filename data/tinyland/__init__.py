"""Tinyland: a small English world from which the project's corpus and tasks are generated."""
