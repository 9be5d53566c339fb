"""What a board's TOML file may say."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from microddsp.errors import CompileError
from microddsp.micro.targets import find_target


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Memory(_Strict):
    """A contiguous range of memory."""

    origin: Annotated[int, Field(ge=0, lt=2**32)]
    kbytes: Annotated[int, Field(gt=0, le=2**20)]


class Qemu(_Strict):
    """How the emulator is started.

    `icount_shift`: one instruction takes 2**shift ns of the board's time. 6 is more than a tick of
    every clock above 15.6 MHz, so that ticks count instructions exactly.
    """

    machine: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    binary: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")] = "qemu-system-arm"
    icount_shift: Annotated[int, Field(ge=0, le=10)] = 6


class Board(_Strict):
    """A board that firmware can be built for and run on."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    description: Annotated[str, Field(pattern=r"^[^\n*/]+$")]
    target: str
    clock_hz: Annotated[int, Field(gt=0, lt=2**32)]
    stack_bytes: Annotated[int, Field(ge=512, multiple_of=8)]
    flash: Memory
    ram: Memory
    qemu: Qemu

    @field_validator("target")
    @classmethod
    def _is_known(cls, name: str) -> str:
        try:
            find_target(name)
        except CompileError as error:
            raise ValueError(str(error)) from error
        return name

    def instructions(self, ticks: int) -> int:
        """How many the emulator ran in that many ticks since its counter was started.

        It gives every instruction the same time, longer than a tick: ticks are rounded down and
        still tell the number exactly.
        """
        return -(-ticks * 10**9 // (self.clock_hz << self.qemu.icount_shift))
