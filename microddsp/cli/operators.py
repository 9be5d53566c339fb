"""The table behind `microddsp ops`. Plain data: importing the blocks themselves takes seconds.

A test compares it with the classes and with the operators that are registered.
"""

from __future__ import annotations

from dataclasses import dataclass

ALL = "all"


@dataclass(frozen=True, slots=True)
class OperatorLine:
    """kind: "block" (dsp.X) or "operator" (microddsp::x, what blocks are made of).

    gradients: "all" is to input, parameters and initial state.
    """

    name: str
    kind: str
    gradients: str
    compiles: bool
    description: str


OPERATORS = (
    OperatorLine("sos", "operator", ALL, True, "cascade of second-order sections"),
    OperatorLine("svf", "operator", ALL, True, "cascade of state-variable filters"),
    OperatorLine("first_order", "operator", ALL, True, "one pole and one zero"),
    OperatorLine("envelope", "operator", ALL, True, "follower with attack and release"),
    OperatorLine("event_counter", "operator", "by surrogate", True, "events over a threshold"),
    OperatorLine("fir", "operator", ALL, True, "finite impulse response"),
    OperatorLine("causal_conv1d", "operator", ALL, True, "convolution that keeps its past"),
    OperatorLine("decimate", "operator", "input", True, "every n-th sample"),
    OperatorLine("frames", "operator", "input, state", True, "overlapping frames of a stream"),
    OperatorLine("first_sample", "operator", "input", True, "steady state for the first sample"),
)
