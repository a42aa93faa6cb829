"""What happens around a pass of the model: what it is called with, and what it reaches."""
