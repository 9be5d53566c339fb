"""Training from counts: windows of recordings, losses, and a fit that ends with exact counts."""

from microddsp.training.counts import count_loss, counting, window_counts
from microddsp.training.fit import FitResult, fit
from microddsp.training.windows import Windows, cut_windows

__all__ = [
    "FitResult",
    "Windows",
    "count_loss",
    "counting",
    "cut_windows",
    "fit",
    "window_counts",
]
