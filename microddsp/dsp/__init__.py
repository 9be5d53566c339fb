"""Differentiable blocks on signals (..., channels, samples)."""

from microddsp.dsp.bands import DCT, BandEnergies, MelFilterbank
from microddsp.dsp.biquad import SVF, Biquad
from microddsp.dsp.block import Block
from microddsp.dsp.butterworth import Bandpass, Bandstop, Highpass, Lowpass
from microddsp.dsp.causal_conv1d import CausalConv1d
from microddsp.dsp.decimate import Decimate
from microddsp.dsp.delay import Delay, LearnableDelay
from microddsp.dsp.envelope import Envelope
from microddsp.dsp.event_counter import EventCounter
from microddsp.dsp.filter import Filter
from microddsp.dsp.filterbank import Filterbank
from microddsp.dsp.fir import FIR
from microddsp.dsp.first_order import DCBlocker, OnePole
from microddsp.dsp.framing import Frames
from microddsp.dsp.gain import Gain
from microddsp.dsp.gammatone import Gammatone
from microddsp.dsp.gru import GRU
from microddsp.dsp.iir import IIR
from microddsp.dsp.log import Log
from microddsp.dsp.mel import MFCC, LogMel, MelSpectrogram
from microddsp.dsp.mix import Mix
from microddsp.dsp.offset import Offset
from microddsp.dsp.onset import OnsetDetector, OnsetStrength
from microddsp.dsp.pcen import PCEN
from microddsp.dsp.peak_picker import PeakPicker
from microddsp.dsp.recurrence import Recurrence
from microddsp.dsp.resample import Resample, decimate_then_filter
from microddsp.dsp.rms import RMS
from microddsp.dsp.select import Select
from microddsp.dsp.sinc_filterbank import SincFilterbank
from microddsp.dsp.sos import SOS
from microddsp.dsp.sources import Noise, Oscillator
from microddsp.dsp.spectrum import RFFT, STFT, PowerSpectrum, Spectrogram
from microddsp.dsp.streaming import is_streaming, reset, step, streaming
from microddsp.dsp.swept_delay import SweptDelay
from microddsp.dsp.swept_filter import SweptFilter
from microddsp.dsp.table import Table, Waveform

__all__ = [
    "DCT",
    "FIR",
    "GRU",
    "IIR",
    "MFCC",
    "PCEN",
    "RFFT",
    "RMS",
    "SOS",
    "STFT",
    "SVF",
    "BandEnergies",
    "Bandpass",
    "Bandstop",
    "Biquad",
    "Block",
    "CausalConv1d",
    "DCBlocker",
    "Decimate",
    "Delay",
    "Envelope",
    "EventCounter",
    "Filter",
    "Filterbank",
    "Frames",
    "Gain",
    "Gammatone",
    "Highpass",
    "LearnableDelay",
    "Log",
    "LogMel",
    "Lowpass",
    "MelFilterbank",
    "MelSpectrogram",
    "Mix",
    "Noise",
    "Offset",
    "OnePole",
    "OnsetDetector",
    "OnsetStrength",
    "Oscillator",
    "PeakPicker",
    "PowerSpectrum",
    "Recurrence",
    "Resample",
    "Select",
    "SincFilterbank",
    "Spectrogram",
    "SweptDelay",
    "SweptFilter",
    "Table",
    "Waveform",
    "decimate_then_filter",
    "is_streaming",
    "reset",
    "step",
    "streaming",
]
