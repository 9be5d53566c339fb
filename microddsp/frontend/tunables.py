"""Numbers of a pipeline that may change on the device: found by name, and how they act.

A parameter that its module uses as it is (a gain, a weight) stays an input of the graph. A number
in physical units (a cut-off, a time) acts through its block's design: what the design gives stays
an input, and the design itself becomes a graph of its own, which the device runs when the number
changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from microddsp.dsp.block import DESIGN_PREFIX, Block
from microddsp.dsp.streaming import reset
from microddsp.errors import CompileError, MicroddspError, nearest
from microddsp.frontend.design_of import PARAMETRISED, DesignOf, Trial
from microddsp.micro.package.names import is_c_name

# A relative change that no rounding hides and that leaves a number in its range, mostly.
_PROBE = 1e-3
# Small and large ones: a step shows at some of them. Out of range is no harm: nothing is kept.
_PROBES = (1 + _PROBE, 0.25, 0.6, 1.7, 4.0)


@dataclass(frozen=True, slots=True)
class Number:
    """A tunable number: the setter's name, where it is, its value now. `source` is the block's own
    parameter or parametrised number; "" where the number is a parameter of the graph."""

    name: str
    path: str
    value: Tensor
    source: str = ""

    @property
    def block(self) -> str:
        return self.path.rpartition(".")[0]


@dataclass(slots=True)
class Tuned:
    """A block with numbers that act through its design; `keys` are items of it that change."""

    block: Block
    path: str
    numbers: list[Number]
    keys: list[str] = field(default_factory=list)

    def buffers(self) -> list[str]:
        return [_joined(self.path, DESIGN_PREFIX + key) for key in self.keys]

    def design(self) -> DesignOf:
        """The design as a function of the numbers, in their order."""
        return DesignOf(self.block, [n.source for n in self.numbers], list(self.keys))

    def parameters(self) -> list[str]:
        """Paths of the parameters behind the numbers, in their order."""
        tails = {n.source: ".raw" if n.source in self.block._modules else "" for n in self.numbers}
        return [_joined(self.path, source + tail) for source, tail in tails.items()]


@dataclass(frozen=True, slots=True)
class Tunables:
    """All tunable numbers of a module: `plain` are parameters of the graph."""

    plain: tuple[Number, ...] = ()
    tuned: tuple[Tuned, ...] = ()

    @property
    def settings(self) -> list[str]:
        """Paths of parameters and buffers that stay inputs of the graph."""
        buffers = [path for block in self.tuned for path in block.buffers()]
        return [number.path for number in self.plain] + buffers


def find_tunables(module: torch.nn.Module, wanted: Sequence[str] | Mapping[str, str]) -> Tunables:
    """Look up numbers by path, "1.threshold"; a mapping gives the setters' names.

    Raises:
        CompileError: There is no such number, it cannot be set on its own, or two setters would
            have one name.
    """
    given = wanted if isinstance(wanted, Mapping) else _named(wanted)
    plain: list[Number] = []
    tuned: dict[str, Tuned] = {}
    for name, path in given.items():
        if not is_c_name(name):
            raise CompileError(f"a setter cannot be called {name!r}", where=path)
        where, _, what = path.rpartition(".")
        owner = _owner(module, where, path)
        source = _source(owner, what) if isinstance(owner, Block) else None
        value = getattr(owner, what, None)
        if source is None and isinstance(owner._parameters.get(what), torch.nn.Parameter):
            assert isinstance(value, Tensor)
            if value.dtype != torch.float32:
                raise CompileError(f"a {value.dtype} parameter cannot be set", where=path)
            plain.append(Number(name, path, value.detach().clone()))
        elif source is not None:
            assert isinstance(value, Tensor) and isinstance(owner, Block)
            block = tuned.setdefault(where, Tuned(owner, where, []))
            block.numbers.append(Number(name, path, value.detach().clone(), source))
        else:
            raise _unknown(owner, where, what)
    capitals = [name.upper() for name in given]
    for name in given:
        if capitals.count(name.upper()) > 1:
            raise CompileError(f"two setters would have the macros of {name!r}")
    for block in tuned.values():
        block.keys = _moved(block)
    return Tunables(tuple(plain), tuple(tuned.values()))


def _named(wanted: Sequence[str]) -> dict[str, str]:
    """Setters by name: the last part of the path where it is the only one, else all of it."""
    leaves = [path.rpartition(".")[2] for path in wanted]
    names: dict[str, str] = {}
    for path, leaf in zip(wanted, leaves, strict=True):
        name = leaf if leaves.count(leaf) == 1 else re.sub(r"\W", "_", path, flags=re.ASCII)
        name = f"p{name}" if name[:1].isdigit() else name
        if name in names:
            raise CompileError(
                f"two tunable numbers would be called {name!r}",
                where=path,
                hint='name them: tunable={"low": "0.cutoff_hz", "high": "1.cutoff_hz"}',
            )
        names[name] = path
    return names


def _owner(module: torch.nn.Module, where: str, path: str) -> torch.nn.Module:
    known = dict(module.named_modules())
    if where not in known:
        raise CompileError(
            f"there is no module {where!r} for the tunable {path!r}",
            hint=nearest(where, [name for name in known if name]),
        )
    return known[where]


def _candidates(block: Block) -> list[str]:
    """What may be behind a number: parametrised numbers, and the block's own parameters."""
    inner = [name for name, child in block._modules.items() if isinstance(child, PARAMETRISED)]
    return inner + [name for name, value in block._parameters.items() if value is not None]


def _source(block: Block, what: str) -> str | None:
    """The part of a block that is the number `what`, all of it, and that its design reads."""
    value = _number(block, what)
    if value is None:
        return None
    probe = value.detach().double() * (1 + _PROBE)
    probe = torch.where(probe == 0, torch.full_like(probe, _PROBE), probe)
    for source in _candidates(block):
        trial = Trial(block)
        trial.give(source, probe)
        found = _number(trial.block, what)
        if found is None or found.shape != probe.shape or not torch.equal(found.double(), probe):
            continue
        if _depending(block, source, value):
            return source
    return None


def _depending(block: Block, source: str, value: Tensor) -> set[str]:
    """Items of the design that follow from a number: by how they are computed, or because they
    change with it. A step (a number of samples) does not change with every small move."""
    trial = Trial(block)
    found: set[str] = set()
    for factor in _PROBES:
        probe = value.detach().double() * factor + _PROBE * (factor - 1)
        trial.give(source, probe.requires_grad_())
        for key, now in trial.block.design().items():
            if now.requires_grad or not torch.equal(now, trial.before[key]):
                found.add(key)
    return found


def _number(block: Block, what: str) -> Tensor | None:
    try:
        value = getattr(block, what, None) if what and not what.startswith("_") else None
    except MicroddspError:  # a property that this block does not have
        return None
    return value if isinstance(value, Tensor) and value.is_floating_point() else None


def _unknown(owner: torch.nn.Module, where: str, what: str) -> CompileError:
    own = [name for name, value in owner._parameters.items() if value is not None]
    if isinstance(owner, Block):
        names = [n for n in dir(type(owner)) if isinstance(getattr(type(owner), n), property)]
        own = [n for n in {*own, *names} if n in own or _source(owner, n) is not None]
    path = _joined(where, what)
    if hasattr(owner, what):
        return CompileError(
            f"{what} cannot be set on its own",
            where=path,
            hint=f"what can: {', '.join(sorted(own)) or 'nothing in this module'}",
        )
    return CompileError(
        f"{type(owner).__name__} has no number {what!r}",
        where=path,
        hint=nearest(what, own) if own else "this module has no parameters",
    )


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _moved(tuned: Tuned) -> list[str]:
    keys: set[str] = set()
    now = tuned.block.design()
    for number in tuned.numbers:
        keys |= _depending(tuned.block, number.source, number.value)
        if any(not now[key].is_floating_point() for key in keys):
            raise CompileError(
                "this number decides a whole number, of samples or of taps",
                where=number.path,
                hint="it is fixed when compiling",
            )
    return [key for key in now if key in keys]


def check_starts(module: torch.nn.Module, tunables: Tunables) -> None:
    """Refuse numbers that states start from: those are constants. `module` is in streaming mode and
    was reset; it is again.

    Raises:
        CompileError: Names the number.
    """
    inside = [path for tuned in tunables.tuned for path in tuned.parameters()]
    with torch.no_grad():
        for path in [*(number.path for number in tunables.plain), *inside]:
            before = [buffer.clone() for buffer in module.buffers()]
            parameter = module.get_parameter(path)
            kept = parameter.detach().clone()
            parameter.mul_(1 + _PROBE).add_(_PROBE)
            reset(module)
            moved = [
                not torch.equal(old, new) for old, new in zip(before, module.buffers(), strict=True)
            ]
            parameter.copy_(kept)
            reset(module)
            if any(moved):
                raise CompileError(
                    "a state starts from this number", where=path, hint="it cannot be set"
                )


@contextmanager
def kept_designs(tunables: Tunables) -> Iterator[None]:
    """Inside `fixed_designs`: items that will change are float32 buffers of their own, which no
    conversion hides from the graph."""
    for tuned in tunables.tuned:
        for key in tuned.keys:
            name = DESIGN_PREFIX + key
            fixed = tuned.block._buffers[name]
            assert fixed is not None
            tuned.block._buffers[name] = fixed.float()
    yield
