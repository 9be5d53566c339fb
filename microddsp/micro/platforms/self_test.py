"""A project's firmware started once, and what it says about itself."""
