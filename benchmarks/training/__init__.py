"""Time of training: forward and backward passes beside those of other libraries."""
