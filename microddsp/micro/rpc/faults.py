"""What a device says about a fault, as an error that names the place in the user's C."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

from microddsp.errors import DeviceFaultError, StackOverflowError

if TYPE_CHECKING:
    from microddsp.micro.rpc.symbols import Symbols

MARK = "DeviceFault: "
_FACT = re.compile(r"(\w+)=(0x[0-9a-f]+|\d+)")
# Bits of the Configurable Fault Status Register, most telling first.
_CAUSES = (
    (1 << 25, "division by zero"),
    (1 << 24, "unaligned access"),
    (1 << 19, "no coprocessor: is the floating-point unit on?"),
    (1 << 18, "invalid return from an exception"),
    (1 << 17, "invalid state: a jump to an address that is no Thumb code"),
    (1 << 16, "undefined instruction"),
    (1 << 8, "bus fault on an instruction fetch"),
    (1 << 9, "bus fault"),
    (1 << 10, "bus fault, some instructions before"),
    (1 << 0, "instruction fetch from memory that is not executable"),
    (1 << 1, "memory access that is not allowed"),
)
_RED_ZONE_BYTES = 64


def fault_error(text: str, symbols: Symbols | None, *, lost: bool = False) -> DeviceFaultError:
    """The error for a line of facts, `pc=0x... lr=0x... status=0x... address=0x... overflow=1`.

    Args:
        text: The facts; `sp` may be there for a processor that locked up.
        symbols: Of the firmware.
        lost: The device is not there any more.
    """
    facts = {name: int(number, 0) for name, number in _FACT.findall(text)}
    pc = facts.get("pc") or None
    overflow = bool(facts.get("overflow")) or _below_the_stack(facts.get("sp"), symbols)
    words = [_cause(facts, overflow)]
    function = line = ""
    if symbols is not None:
        place = symbols.find(pc if pc is not None else facts.get("lr", 0))
        if place.function:
            function = place.inner or place.function
            line = place.line
            words.append(f"{'in' if pc is not None else 'probably in'} {function}")
            if line:
                words.append(f"({line})")
    known = [f"{name}=0x{facts[name]:x}" for name in ("pc", "lr", "status") if facts.get(name)]
    message = f"fault on the device: {' '.join(words)}"
    if known:
        message += f": {' '.join(known)}"
    kind = StackOverflowError if overflow else DeviceFaultError
    hints = ["a larger stack, or a smaller frame"] if overflow else []
    if lost:
        message += "; the device stopped"
        hints.append("open the board again")
    return kind(
        message,
        pc=pc,
        address=facts.get("address"),
        status=facts.get("status", 0),
        function=function,
        line=line,
        hint="; ".join(hints),
    )


def _below_the_stack(sp: int | None, symbols: Symbols | None) -> bool:
    """Whether a processor that locked up had not even room for an exception's frame."""
    bottom = symbols.value("_red_zone") if symbols is not None else None
    return sp is not None and bottom is not None and sp < bottom + _RED_ZONE_BYTES


def _cause(facts: dict[str, int], overflow: bool) -> str:
    if overflow:
        return "the stack overflowed"
    status = facts.get("status", 0)
    if facts.get("signal"):
        return _with_address(signal.strsignal(facts["signal"]) or "signal", facts)
    for bit, name in _CAUSES:
        if status & bit:
            return _with_address(name, facts)
    return "hard fault"


def _with_address(cause: str, facts: dict[str, int]) -> str:
    return f"{cause} at address 0x{facts['address']:08x}" if "address" in facts else cause
