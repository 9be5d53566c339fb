"""What a board's TOML file may say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from microddsp.errors import CompileError, ParameterError, nearest
from microddsp.micro.targets import find_target

HOST = "host"
# What the words of a board's commands may have in braces.
FILLED_IN = ("image", "hex", "bin", "port", "serial_number")
# With so many kB of RAM: the longest frame on a serial line.
FRAME_BYTES = ((256, 4096), (32, 1024), (0, 224))
# With revision and qualifiers: nrf5340dk/nrf5340/cpuapp, board@1.2
ZEPHYR_NAME = r"^[A-Za-z0-9_-]+(@[A-Za-z0-9.]+)?(/[A-Za-z0-9_/-]+)?$"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Memory(_Strict):
    """A contiguous range of memory."""

    origin: Annotated[int, Field(ge=0, lt=2**32)]
    kbytes: Annotated[int, Field(gt=0, le=2**20)]

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.origin + self.kbytes * 1024


class Qemu(_Strict):
    """How the emulator is started.

    `icount_shift`: one instruction takes 2**shift ns of the board's time. 6 is more than a tick of
    every clock above 15.6 MHz, so that ticks count instructions exactly. `uart`: the link is the
    first UART, not semihosting.
    """

    machine: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    binary: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")] = "qemu-system-arm"
    icount_shift: Annotated[int, Field(ge=0, le=10)] = 6
    uart: bool = False


class Serial(_Strict):
    """A real board's serial port, and the tools that write its flash.

    `driver` is a C file beside the board's own file, or one that comes with this package; it
    implements `uart.h`. `usb` are "vendor:product" numbers of the board's USB port. In `flash`,
    `reset` and `debug`, commands in words, {image}, {hex}, {bin}, {port}, {serial_number} and, in
    `debug` alone, {gdb_port} are filled in. `debug` runs a server for gdb.
    `break_resets`: a break on the line resets the board, as with DAPLink.
    `frame_bytes`: the longest frame on the line, for which the firmware has two buffers.
    """

    driver: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+\.c$")]
    baud: Annotated[int, Field(gt=0, le=12_000_000)] = 115_200
    usb: list[Annotated[str, Field(pattern=r"^[0-9a-f]{4}:[0-9a-f]{4}$")]] = []
    flash: list[str] = []
    reset: list[str] = []
    debug: list[str] = []
    break_resets: bool = False
    frame_bytes: Annotated[int, Field(ge=8, le=16384)] | None = None

    @field_validator("flash", "reset", "debug")
    @classmethod
    def _can_be_filled_in(cls, words: list[str], about: ValidationInfo) -> list[str]:
        known = FILLED_IN + (("gdb_port",) if about.field_name == "debug" else ())
        for name in re.findall(r"\{(\w*)\}", " ".join(words)):
            if name not in known:
                raise ValueError(f"nothing is filled in for {{{name}}}; {nearest(name, known)}")
        return words


def check_portless(board: Board, port: str | None, serial_number: str | None) -> None:
    """Raises ParameterError where a port is given for a board that is behind none."""
    if board.serial is None and not board.template and (port or serial_number):
        raise ParameterError(
            f"{board.name} is not behind a serial port",
            hint="leave the port and the serial number out",
        )


class Board(_Strict):
    """A board that firmware can be built for and run on: an emulated one (`qemu`), a real one
    (`serial`), or a process on this computer (target "host"), linked by pipes or a serial line.

    `zephyr` is what Zephyr calls a board that it brings up: link and memory are Zephyr's then, and
    `clock_hz` is the rate of the kernel's cycles. `template`: a project's own server program
    reaches it. `folder` is where the board's file lies.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    description: Annotated[str, Field(pattern=r"^[^\n*/]+$")]
    target: str
    clock_hz: Annotated[int, Field(gt=0, lt=2**32)]
    stack_bytes: Annotated[int, Field(ge=512, multiple_of=8)]
    flash: Memory | None = None
    ram: Memory | None = None
    qemu: Qemu | None = None
    serial: Serial | None = None
    zephyr: Annotated[str, Field(pattern=ZEPHYR_NAME)] | None = None
    template: bool = False
    folder: Path | None = None

    @field_validator("target")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            find_target(name)
        except CompileError as error:
            raise ValueError(str(error)) from error
        return name

    @model_validator(mode="after")
    def _can_be_started(self) -> Board:
        if self.template:
            return self
        if self.target == HOST:
            if self.qemu or self.flash or self.zephyr:
                raise ValueError("a process on this computer has no qemu, no flash and no Zephyr")
        elif self.flash is None and not self.zephyr:
            raise ValueError("flash: Field required")
        elif (self.qemu is None) == (self.serial is None):
            raise ValueError("either qemu or serial is needed")
        if self.ram is None and not self.zephyr:
            raise ValueError("ram: Field required")
        return self

    @model_validator(mode="after")
    def _has_room(self) -> Board:
        if self.template or self.flash is None or self.ram is None:
            return self
        if self.flash.origin < self.ram.end and self.ram.origin < self.flash.end:
            raise ValueError("flash and ram overlap")
        if self.stack_bytes >= self.ram.kbytes * 1024:
            raise ValueError(f"stack_bytes: {self.ram.kbytes} kB of RAM are too small for it")
        return self

    @property
    def platform(self) -> str:
        """The kind of firmware project: "host", "zephyr", "qemu", "serial" or "template"."""
        if self.template:
            return "template"
        if self.target == HOST:
            return "host"
        if self.zephyr:
            return "zephyr"
        return "qemu" if self.qemu else "serial"

    @property
    def frame_bytes(self) -> int | None:
        """The longest frame on the serial line; None where only the firmware knows its RAM."""
        if self.serial and self.serial.frame_bytes:
            return self.serial.frame_bytes
        if self.ram is None:
            return None
        return next(nbytes for kbytes, nbytes in FRAME_BYTES if self.ram.kbytes >= kbytes)

    @property
    def unit(self) -> str:
        """What `count` counts."""
        if self.target == HOST:
            return "nanoseconds"
        return "instructions" if self.qemu else "cycles"

    def count(self, ticks: int) -> int:
        """Instructions, cycles or nanoseconds since the board's counter was started.

        An emulator gives every instruction the same time, longer than a tick: ticks are rounded
        down and still tell the number exactly.
        """
        if self.qemu is None:
            return ticks
        return -(-ticks * 10**9 // (self.clock_hz << self.qemu.icount_shift))

    def seconds(self, count: float) -> float:
        """The time that so many instructions, cycles or nanoseconds take."""
        if self.qemu is None:
            return count / self.clock_hz
        return float(count * 2**self.qemu.icount_shift * 1e-9)
