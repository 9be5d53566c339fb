"""Applications for the user's own Zephyr."""
