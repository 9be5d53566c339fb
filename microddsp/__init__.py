"""Differentiable DSP, from PyTorch to microcontrollers.

Names are imported on first use: torch and TVM take seconds, and `microddsp --help` must not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from microddsp.errors import (
    ArchiveError,
    BoardError,
    BudgetError,
    CompileError,
    DeviceFaultError,
    DeviceLostError,
    DeviceMemoryError,
    DeviceResetError,
    DeviceTimeoutError,
    LinkError,
    MicroddspError,
    ParameterError,
    RecordError,
    ServerLostError,
    SignalError,
    StackOverflowError,
    TemplateError,
    UnsupportedOperatorError,
    VerificationError,
)
from microddsp.signature import Input

__version__ = "0.1.0"

_LAZY = {
    "compile": "microddsp.compiler",
    "load": "microddsp.micro.package.archive",
    "load_models": "microddsp.micro.package.archive",
    "save": "microddsp.micro.package.archive",
    "open_board": "microddsp.micro.session",
    "report": "microddsp.reporting",
    "tune": "microddsp.tuning.session",
    "verify": "microddsp.verification",
    "streaming": "microddsp.dsp.streaming",
    "reset": "microddsp.dsp.streaming",
    "step": "microddsp.dsp.streaming",
    "dsp": "microddsp.dsp",
    "training": "microddsp.training",
}

if TYPE_CHECKING:
    from microddsp import dsp as dsp
    from microddsp import training as training
    from microddsp.compiler import compile as compile
    from microddsp.dsp.streaming import reset as reset
    from microddsp.dsp.streaming import step as step
    from microddsp.dsp.streaming import streaming as streaming
    from microddsp.micro.package.archive import load as load
    from microddsp.micro.package.archive import load_models as load_models
    from microddsp.micro.package.archive import save as save
    from microddsp.micro.session import open_board as open_board
    from microddsp.reporting import report as report
    from microddsp.tuning.session import tune as tune
    from microddsp.verification import verify as verify

__all__ = [
    "ArchiveError",
    "BoardError",
    "BudgetError",
    "CompileError",
    "DeviceFaultError",
    "DeviceLostError",
    "DeviceMemoryError",
    "DeviceResetError",
    "DeviceTimeoutError",
    "Input",
    "LinkError",
    "MicroddspError",
    "ParameterError",
    "RecordError",
    "ServerLostError",
    "SignalError",
    "StackOverflowError",
    "TemplateError",
    "UnsupportedOperatorError",
    "VerificationError",
    "compile",
    "dsp",
    "load",
    "load_models",
    "open_board",
    "report",
    "reset",
    "save",
    "step",
    "streaming",
    "training",
    "tune",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'microddsp' has no attribute {name!r}")
    module = importlib.import_module(_LAZY[name])
    value = module if _LAZY[name] == f"microddsp.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
