"""What all recursive filters share: forms, start-up, learnable frequencies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from microddsp import relax_ops
from microddsp.dsp.block import Block, State, show, zeros
from microddsp.errors import ParameterError
from microddsp.relax_ops.svf import as_svf as as_svf
from microddsp.relax_ops.svf import svf_row as svf_row

FORMS = ("auto", "direct", "svf")
INITIALS = ("zero", "first_sample")
# Below this share of the sample rate direct forms lose precision in float32: 5e-5 at fs/320,
# 7e-3 at fs/3200, 12 % at fs/16000; state-variable sections stay below 1e-5.
SVF_BELOW = 1 / 500


class Filter(Block):
    """A linear recursive filter; subclasses give its coefficients.

    `kind` is the operator that runs it: "sos", "svf" or "first_order"; `sections` how many
    second-order sections there are.
    """

    kind = "sos"
    sections = 1

    def __init__(self, sample_rate_hz: float, initial: str) -> None:
        super().__init__()
        where = type(self).__name__
        if not 0 < sample_rate_hz < float("inf"):
            raise ParameterError(
                f"sample_rate_hz must be positive, got {sample_rate_hz}", where=where
            )
        if initial not in INITIALS:
            raise ParameterError(
                f"unknown initial {initial!r}", where=where, hint=f"one of {', '.join(INITIALS)}"
            )
        self.sample_rate_hz = float(sample_rate_hz)
        self.initial = initial

    def coefficients(self) -> Tensor:
        """float64 (sections, 5) b0 b1 b2 a1 a2, (sections, 6) or (3,), with channels in front
        if parameters are per channel."""
        raise NotImplementedError

    def design(self) -> dict[str, Tensor]:
        coefficients = self.coefficients()
        if self.initial == "zero":
            return {"coefficients": coefficients}
        return {"coefficients": coefficients, "settled": settled(self.kind, coefficients)}

    def initial_state(self, x: Tensor) -> State:
        state = {"z": zeros(x, *self._state_shape())}
        if self.initial == "first_sample":
            state["held"] = zeros(x, 1)
            state["started"] = x.new_zeros(1, dtype=torch.int32)
        return state

    def process(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        coefficients = self.designed("coefficients").to(x)
        z, following = state["z"], dict(state)
        if self.initial == "first_sample":
            gain = self.designed("settled").to(x)
            z, following["held"], following["started"] = relax_ops.first_sample(
                x, gain, z, state["held"], state["started"]
            )
        operator = {
            "sos": relax_ops.sos,
            "svf": relax_ops.svf,
            "first_order": relax_ops.first_order,
        }[self.kind]
        y, following["z"] = operator(x, coefficients, z)
        return y, following

    def _state_shape(self) -> tuple[int, ...]:
        if self.kind == "first_order":
            return (1,)
        return (self.sections, 2)

    @property
    def settle_samples(self) -> int:
        """From the slowest pole: its radius to the n-th power is 1 %."""
        with torch.no_grad():
            return decay_of(self.kind, self.coefficients())


def decay_of(kind: str, coefficients: Tensor) -> int:
    """Samples until what a filter has heard has faded to 1 %."""
    radius = float(pole_radius(kind, coefficients).max())
    if radius <= 0.0:
        return 0
    if not radius < 1.0:  # or not a number, which is refused elsewhere
        return 2**31 - 1
    return int(torch.ceil(torch.log(torch.tensor(0.01)) / torch.log(torch.tensor(radius))))


def settled(kind: str, c: Tensor) -> Tensor:
    """State of a filter that has seen a constant 1 for ever (scipy's `sosfilt_zi`)."""
    if kind == "first_order":
        b0, b1, a1 = c.unbind(-1)
        y = (b0 + b1) / (1 + a1)
        return (b1 - a1 * y)[..., None]
    if kind == "svf":
        m0, m2 = c[..., 3], c[..., 5]
        x = _before(torch.cumprod(m0 + m2, -1))
        return torch.stack([torch.zeros_like(x), x], -1)
    b0, b1, b2, a1, a2 = c.unbind(-1)
    y = torch.cumprod((b0 + b1 + b2) / (1 + a1 + a2), -1)
    x = _before(y)
    return torch.stack([y - b0 * x, b2 * x - a2 * y], -1)


def _before(y: Tensor) -> Tensor:
    """What each section hears: a constant 1, or what the one before it gives."""
    first = torch.ones_like(y[..., :1])
    return first if y.shape[-1] == 1 else torch.cat([first, y[..., :-1]], -1)


def pole_radius(kind: str, c: Tensor) -> Tensor:
    """The largest pole radius of each section."""
    if kind == "first_order":
        return c[..., 2].abs()
    if kind == "svf":
        # x' = A x with A from Simper's integrators; its determinant and trace give the poles
        a1, a2, a3 = c[..., 0], c[..., 1], c[..., 2]
        trace = (2 * a1 - 1) + (1 - 2 * a3)
        determinant = (2 * a1 - 1) * (1 - 2 * a3) + 4 * a2 * a2
        return _radius(-trace, determinant)
    return _radius(c[..., 3], c[..., 4])


def _radius(a1: Tensor, a2: Tensor) -> Tensor:
    return poles(a1, a2).abs().amax(-1)


def poles(a1: Tensor, a2: Tensor) -> Tensor:
    """Both poles of each direct-form section (..., 2), complex."""
    root = torch.sqrt((a1 * a1 / 4 - a2).to(torch.complex128))
    return torch.stack([-a1 / 2 + root, -a1 / 2 - root], -1)


class Frequency(torch.nn.Module):
    """A learnable frequency, or one per channel, that stays between two others.

    `raw` is the logit of the position between `low` and `high`, 0 and half the sample rate
    unless the caller gives bounds.
    """

    def __init__(
        self,
        name: str,
        value: float | Sequence[float],
        sample_rate_hz: float,
        where: str,
        *,
        above: float | Sequence[float] = 0.0,
    ) -> None:
        super().__init__()
        nyquist = sample_rate_hz / 2
        hz = torch.as_tensor(value, dtype=torch.float64)
        low = torch.as_tensor(above, dtype=torch.float64)
        if hz.dim() > 1 or not bool(torch.isfinite(hz).all()):
            raise ParameterError(
                f"{name} is one finite frequency or one per channel, got {value}", where=where
            )
        if not bool((hz > low).all()):
            raise ParameterError(f"{name} must be above {show(low)} Hz, got {value}", where=where)
        if not bool((hz < nyquist).all()):
            raise ParameterError(
                f"{name} must be below half the sample rate, {nyquist:g} Hz, got {value}",
                where=where,
            )
        self.nyquist = nyquist
        self.raw = torch.nn.Parameter(torch.logit((hz - low) / (nyquist - low)).float())

    def forward(self, above: Tensor | float = 0.0) -> Tensor:
        """The frequency in Hz, float64."""
        return above + (self.nyquist - above) * torch.sigmoid(exact(self.raw))


class Positive(torch.nn.Module):
    """A learnable positive number (a quality factor, a time, a gain), stored as its logarithm."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.raw = torch.nn.Parameter(torch.log(value).float())

    def forward(self) -> Tensor:
        return torch.exp(exact(self.raw))


def exact(parameter: Tensor) -> Tensor:
    """A parameter in float64, in which designs are computed."""
    # Apple's GPUs have no float64: designs are small, and wait for the signal on the CPU
    return (parameter.cpu() if parameter.device.type == "mps" else parameter).double()


def choose_form(
    form: str, frequency_hz: Tensor, sample_rate_hz: float, possible: bool, where: str
) -> str:
    """The operator, sos or svf: what `form` asks for, or by the cut-off.

    Raises:
        ParameterError: Unknown form, or no state-variable form for this filter.
    """
    if form not in FORMS:
        raise ParameterError(
            f"unknown form {form!r}", where=where, hint=f"one of {', '.join(FORMS)}"
        )
    if form == "svf" and not possible:
        raise ParameterError("this filter has no state-variable form", where=where)
    low = float(frequency_hz.min()) < SVF_BELOW * sample_rate_hz
    return "svf" if form == "svf" or (form == "auto" and possible and low) else "sos"


def form_name(kind: str) -> str:
    """What the argument `form` calls an operator."""
    return "direct" if kind == "sos" else kind
