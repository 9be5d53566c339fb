"""Boards of several computers, handed out by TVM's own tracker and servers."""

from microddsp.micro.farm.address import (
    FarmAddress,
    Tracker,
    is_farm_address,
    parse_address,
    parse_tracker,
)
from microddsp.micro.farm.client import WAIT_S, request, request_and_run
from microddsp.micro.farm.tracker import KeyStatus, tracker_status

__all__ = [
    "WAIT_S",
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
