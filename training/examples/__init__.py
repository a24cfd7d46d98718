"""Training examples, made of songs."""
