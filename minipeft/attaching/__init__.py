"""What `attach` does for a tuner, and what training asks of it."""
