"""Boards of several computers, handed out by TVM's own tracker and servers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from microddsp.micro.farm.address import (
    FarmAddress,
    Tracker,
    is_farm_address,
    parse_address,
    parse_tracker,
)

if TYPE_CHECKING:
    from microddsp.micro.farm.client import request as request
    from microddsp.micro.farm.client import request_and_run as request_and_run
    from microddsp.micro.farm.tracker import KeyStatus as KeyStatus
    from microddsp.micro.farm.tracker import tracker_status as tracker_status

# Imported on first use: the command line checks addresses before it knows that it needs more.
_LAZY = {
    "request": "client",
    "request_and_run": "client",
    "KeyStatus": "tracker",
    "tracker_status": "tracker",
}

__all__ = [
    "FarmAddress",
    "KeyStatus",
    "Tracker",
    "is_farm_address",
    "parse_address",
    "parse_tracker",
    "request",
    "request_and_run",
    "tracker_status",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
