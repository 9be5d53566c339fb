"""The model alone, for your own firmware."""
