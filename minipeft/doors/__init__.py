"""The three doors: words, memory, weights."""
