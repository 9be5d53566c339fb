"""A compiled model: its C, what goes in and out, and the same C run on this computer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microddsp.errors import ArchiveError, ParameterError, nearest
from microddsp.micro.package.digest import digest_of
from microddsp.micro.package.host_library import HostLibrary
from microddsp.micro.package.memory import MemoryReport, measure
from microddsp.micro.targets import Target
from microddsp.outline import Outline
from microddsp.signature import Signature
from microddsp.streams import join_blocks, setting, split_blocks

CODE_KINDS = ("c", "tir", "relax")

if TYPE_CHECKING:
    import numpy as np
    import torch

    from microddsp.micro.cycles.load import Load


@dataclass(frozen=True, slots=True)
class TunedKernel:
    """A kernel that was made as a tuning record says: what that measured (in `metric`), and what
    the usual kernel did, if it was measured too."""

    kernel: str
    key: str
    metric: str
    value: float
    usual: float | None
    choices: dict[str, object]

    @property
    def gain(self) -> float | None:
        """The share that was saved."""
        return None if not self.usual else 1.0 - self.value / self.usual


@dataclass(slots=True)
class CompiledModel:
    """What `microddsp.compile` and `microddsp.load` return.

    `sources` maps file names to text (`<name>.h`, `<name>.c`), `buffers` lists
    `(name, bytes, offset, first step, last step)` of the arena; each statement of a kernel is a
    step, `tir` is the lowered IR as text. `objects` maps names of object files for the target to
    their bytes: the kernels, unless they are in the C. `relax` is the graph before all passes as
    text. `kernels` lists `(name, bytes of scratch, bytes in and out)`; `parameters` are the
    constants, `constant_bytes` of them, as `tvm.runtime.save_param_dict` gives them. `outline`
    tells the pipeline's units and what became of them; older archives have none. `tuned` are the
    kernels that follow a tuning record; an archive does not hold them.
    """

    name: str
    target: Target
    signature: Signature
    sources: dict[str, str]
    tir: str = ""
    buffers: tuple[tuple[str, int, int, int, int], ...] = ()
    objects: dict[str, bytes] = field(default_factory=dict)
    relax: str = ""
    kernels: tuple[tuple[str, int, int], ...] = ()
    constant_bytes: int = 0
    parameters: bytes = field(default=b"", repr=False)
    outline: Outline | None = None
    tuned: tuple[TunedKernel, ...] = field(default=(), compare=False)
    _library: HostLibrary | None = field(default=None, repr=False, compare=False)
    _memory: MemoryReport | None = field(default=None, repr=False, compare=False)
    _load: Load | None = field(default=None, repr=False, compare=False)

    @property
    def digest(self) -> str:
        """A hash of the sources; the same as in their first line."""
        return digest_of(self.sources)

    @property
    def memory(self) -> MemoryReport:
        """Flash, RAM and stack in bytes, from the cross compiler's own object file.

        Raises:
            BoardError: The cross compiler of the target is not installed.
        """
        if self._memory is None:
            self._memory = measure(self)
        return self._memory

    def dump(self, folder: str | Path, kinds: Sequence[str] = CODE_KINDS) -> list[Path]:
        """Write what the model was on its way: "relax" the graph, "tir" its kernels, "c" both C
        files. Returns the paths.

        Raises:
            ParameterError: An unknown kind, or one that an archive does not hold.
            ArchiveError: A file cannot be written.
        """
        texts = {"relax": {f"{self.name}.relax.txt": self.relax}, "c": self.sources}
        texts["tir"] = {f"{self.name}.tir.txt": self.tir}
        for kind in kinds:
            if kind not in CODE_KINDS:
                raise ParameterError(f"no code is called {kind!r}", hint=nearest(kind, CODE_KINDS))
            if not all(texts[kind].values()):
                raise ParameterError(f"a loaded archive has no {kind}", hint="compile it again")
        written = []
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            for name, text in sorted(item for kind in kinds for item in texts[kind].items()):
                written.append(Path(folder) / name)
                written[-1].write_text(text)
        except OSError as error:
            raise ArchiveError(f"cannot write: {error.strerror}", where=str(folder)) from error
        return written

    @property
    def load(self) -> Load:
        """Instructions and modelled cycles of a block, run on the emulator with noise.

        Raises:
            CompileError: The target's cycles are not modelled.
            BoardError: The cross compiler or the emulator is not installed.
        """
        from microddsp.micro.cycles.load import measure_load

        if self._load is None:
            self._load = measure_load(self)
        return self._load

    def run(self, *inputs: np.ndarray | torch.Tensor, tail: str = "error") -> Any:
        """Feed one or more whole blocks to the C on this computer; keeps state between calls.

        Inputs are (channels, samples), outputs of successive blocks are joined. Returns what the
        pipeline's forward returns, as numpy arrays or, for torch inputs, as tensors.

        Raises:
            SignalError: Wrong channel count or type, not finite, empty, or a partial block
                (unless `tail="drop"`).
            BoardError: No C compiler on this computer.
        """
        blocks = split_blocks(self.signature, inputs, tail)
        library = self._host()
        outputs = [library.process(block) for block in blocks]
        return join_blocks(self.signature, outputs, like=inputs)

    def set(self, name: str, value: float | Sequence[float] | np.ndarray | torch.Tensor) -> None:
        """Change a tunable number from the next block on; `reset` leaves it.

        Raises:
            ParameterError: No such number, another shape, or a value that its setter refuses.
        """
        self._host().set(name, setting(self.signature, name, value))

    def reset(self) -> None:
        """Forget the signal seen so far."""
        self._host().reset()

    def save(self, path: str | Path) -> None:
        """Write a Model Library Format archive; equal models give equal bytes."""
        from microddsp.micro.package.archive import save

        save(self, path)

    def _host(self) -> HostLibrary:
        if self._library is None:
            fits = self.target.name == "host"  # else the kernels are built from their C
            self._library = HostLibrary(self.signature, self.sources, self.objects if fits else {})
        return self._library
