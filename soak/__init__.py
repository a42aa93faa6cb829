"""The soak: kills at random moments, thousands of bad inputs, and thousands of cycles.

`make soak` runs everything and prints counts; `python -m soak --help` says how to run less of it.
"""
