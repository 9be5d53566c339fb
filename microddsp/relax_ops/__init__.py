"""Operators: each file defines one, for training, host and device alike.

Importing this package makes the torch operators; Relax hears of them in `registry`.
"""

from microddsp.relax_ops.bands import bands
from microddsp.relax_ops.between import between
from microddsp.relax_ops.causal_conv1d import causal_conv1d
from microddsp.relax_ops.decimate import decimate
from microddsp.relax_ops.delay import delay
from microddsp.relax_ops.envelope import envelope
from microddsp.relax_ops.event_counter import event_counter
from microddsp.relax_ops.fir import fir
from microddsp.relax_ops.first_order import first_order
from microddsp.relax_ops.first_sample import first_sample
from microddsp.relax_ops.frames import frames
from microddsp.relax_ops.logarithm import logarithm
from microddsp.relax_ops.moving_max import moving_max
from microddsp.relax_ops.noise import noise
from microddsp.relax_ops.oscillator import oscillator
from microddsp.relax_ops.peaks import peaks
from microddsp.relax_ops.player import player
from microddsp.relax_ops.recurrence import is_joint, recurrence
from microddsp.relax_ops.recurrence import to_text as recurrence_text
from microddsp.relax_ops.resample import resample
from microddsp.relax_ops.rfft import rfft
from microddsp.relax_ops.sos import sos
from microddsp.relax_ops.spectrum import spectrum
from microddsp.relax_ops.svf import svf
from microddsp.relax_ops.swept import swept, swept_quality
from microddsp.relax_ops.swept_delay import swept_delay
from microddsp.relax_ops.table import table
from microddsp.relax_ops.tapped_delay import tapped_delay

__all__ = [
    "bands",
    "between",
    "causal_conv1d",
    "decimate",
    "delay",
    "envelope",
    "event_counter",
    "fir",
    "first_order",
    "first_sample",
    "frames",
    "logarithm",
    "is_joint",
    "recurrence",
    "recurrence_text",
    "moving_max",
    "noise",
    "oscillator",
    "peaks",
    "player",
    "resample",
    "rfft",
    "sos",
    "spectrum",
    "svf",
    "swept",
    "swept_delay",
    "swept_quality",
    "table",
    "tapped_delay",
]
