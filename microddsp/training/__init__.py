"""Training: losses, a loop for any of them, and a fit that ends with exact counts from counts."""

from microddsp.training import losses, relaxations, spectral_losses
from microddsp.training.batches import Batch, crops, random_inputs, rows, whole
from microddsp.training.checkpoint import Checkpoint, load_checkpoint
from microddsp.training.counts import count_loss, counting, window_counts
from microddsp.training.fit import FitResult, fit
from microddsp.training.gradients import GradientReport, verify_gradients
from microddsp.training.loop import EarlyStop, Trained, compare, train
from microddsp.training.readings import Readings
from microddsp.training.recorders import CsvRecorder, ProgressRecorder, Row, TensorBoardRecorder
from microddsp.training.rounding import Rounded, round_weights
from microddsp.training.sample_rate import lower_rate
from microddsp.training.scan import Scanned, scan
from microddsp.training.truncated import TruncatedBackpropagation
from microddsp.training.windows import Windows, cut_windows

__all__ = [
    "Batch",
    "Checkpoint",
    "CsvRecorder",
    "EarlyStop",
    "FitResult",
    "GradientReport",
    "ProgressRecorder",
    "Readings",
    "Rounded",
    "Row",
    "Scanned",
    "TensorBoardRecorder",
    "Trained",
    "TruncatedBackpropagation",
    "Windows",
    "compare",
    "count_loss",
    "counting",
    "crops",
    "cut_windows",
    "fit",
    "load_checkpoint",
    "losses",
    "lower_rate",
    "random_inputs",
    "relaxations",
    "round_weights",
    "rows",
    "scan",
    "spectral_losses",
    "train",
    "verify_gradients",
    "whole",
    "window_counts",
]
