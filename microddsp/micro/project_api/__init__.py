"""Templates of third parties: their server programs, and what talks to them."""
