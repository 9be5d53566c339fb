"""Errors a user can act on. Anything else that escapes is a bug in this package."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MicroddspError(Exception):
    """Root of every error that this package raises on purpose.

    `where` names the user's own object (a module path, a file and line), never one of our
    internals; `hint` says what to change.
    """

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        tail = f"\n  hint: {self.hint}" if self.hint else ""
        return f"{place}{self.message}{tail}"


class ParameterError(MicroddspError, ValueError):
    """An argument of a block or function has a value that makes no sense."""


class SignalError(MicroddspError, ValueError):
    """A signal has the wrong shape, sample rate or type, is empty, or is not finite."""


class CompileError(MicroddspError):
    """The model cannot be compiled as asked."""


class UnsupportedOperatorError(CompileError):
    """Operators of the model have no translation; each one is named with its line."""


class BudgetError(CompileError):
    """The plan does not fit the given flash or RAM."""


class ArchiveError(MicroddspError):
    """A model archive is damaged, hostile, or of another version."""


class BoardError(MicroddspError):
    """A board, or a tool that it needs, is missing or does not do what it should."""


class ProjectError(BoardError):
    """A firmware project's folder is none, is damaged, or cannot be written."""


class OptionError(ProjectError):
    """An option of a platform is unknown or missing, or has a value that makes no sense."""


class LinkError(BoardError):
    """The link to the device broke, or the device answered with an error."""


class DeviceTimeoutError(LinkError):
    """The device did not answer within the time set; it was stopped."""


class DeviceLostError(LinkError):
    """The device, or the program that emulates it, ended. Open the board again."""


class ServerLostError(DeviceLostError):
    """The server of a farm that has the board ended or cannot be reached. Open the board again."""


class DeviceResetError(DeviceLostError):
    """The device started anew by itself: a watchdog, a brown-out, or its own program."""


class DeviceMemoryError(LinkError, MemoryError):
    """The device has no memory left for a tensor. The session goes on."""


class DeviceFaultError(LinkError):
    """The program on the device did what the processor cannot do. The session goes on unless the
    message says that the device stopped.

    `pc` is the address of the instruction and `address` that of the memory, None where the
    processor does not tell; `status` its fault status; `function` and `line` ("plops.c:120") are
    from the firmware's own symbols, "" where they say nothing.
    """

    def __init__(
        self,
        message: str,
        *,
        pc: int | None = None,
        address: int | None = None,
        status: int = 0,
        function: str = "",
        line: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.pc = pc
        self.address = address
        self.status = status
        self.function = function
        self.line = line


class StackOverflowError(DeviceFaultError):
    """A function on the device needed more stack than there is."""


class TemplateError(BoardError):
    """The server program of a template, or of a project made from one, reports an error.

    `code` is that of JSON-RPC, 0 where the program did not answer; `server_traceback` is the
    program's own, which is a note of this exception too; `output` are the last lines that it and
    its tools wrote meanwhile.
    """

    def __init__(
        self,
        message: str,
        *,
        code: int = 0,
        server_traceback: str = "",
        where: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.code = code
        self.server_traceback = server_traceback
        self.output = ""
        if server_traceback:
            self.add_note(f"In the template's server:\n{server_traceback}")


class TemplateVersionError(TemplateError):
    """The template speaks another version of the project API."""


class TemplateLostError(TemplateError):
    """The server program ended, or answered what is no answer. It was stopped."""


class TemplateTimeoutError(TemplateError):
    """The server program did not answer in time. It was stopped."""


class TransportClosedError(TemplateError):
    """The transport of a template is not open, or its device is gone."""


class IoTimeoutError(TemplateError, TimeoutError):
    """A template's device sent or took nothing within the time given."""


class VerificationError(MicroddspError):
    """Device and PyTorch differ by more than the tolerance."""


class RecordError(MicroddspError):
    """Tuning records cannot be used."""


class MicroddspWarning(UserWarning):
    """Root of the warnings that the command line shows."""


class RecordWarning(MicroddspWarning):
    """Tuning records are left out."""


class PrecisionWarning(MicroddspWarning):
    """A filter of the model loses precision in float32; says how much, and what would not."""


# More names than a person reads; all of Zephyr's boards are some hundred.
MANY = 100


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the known names and, if one is close, the one probably meant."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    meant = f"did you mean {close[0]!r}? " if close else ""
    if len(names) > MANY:
        close = difflib.get_close_matches(name, names, n=10, cutoff=0.3)
        return f"{meant}{len(names)} are known" + (f", as {', '.join(close)}" if close else "")
    return f"{meant}known: {', '.join(names)}"
