"""Training: losses, a loop for any of them, and a fit that ends with exact counts from counts."""

from microddsp.training import losses, spectral_losses
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
    "losses",
    "spectral_losses",
    "window_counts",
]
