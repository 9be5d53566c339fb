"""What a user may ask of the passes: IR around one, its time, its options, to leave it out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import tvm
from tvm.ir.instrument import PassTimingInstrument, pass_instrument

from microddsp.errors import ParameterError, nearest
from microddsp.schedules.lowering import PASSES
from microddsp.schedules.pipeline import pipeline

# What only makes code faster or smaller: the results stay right without it.
OPTIONAL = (
    "FuseConvolutions",
    "FoldConstant",
    "FuseOps",
    "s_tir.LoopPartition",
    "tirx.StorageRewrite",
    "s_tir.HoistIfThenElse",
    "s_tir.RenormalizeSplitPattern",
)
# What would change numbers.
_FORBIDDEN = ("tirx.enable_fast_math",)
_SCALARS: dict[str, Callable[[str], bool | int]] = {
    "bool": lambda text: {"true": True, "1": True, "false": False, "0": False}[text.lower()],
    "int": int,
}


@dataclass(frozen=True, slots=True)
class PassOptions:
    """Pass names as `known_passes` lists them. `config` has TVM's own names and values as text.
    `show` takes the text of an IR or of the times."""

    print_before: Sequence[str] = ()
    print_after: Sequence[str] = ()
    disabled: Sequence[str] = ()
    config: Mapping[str, str] = field(default_factory=dict)
    times: bool = False
    show: Callable[[str], object] = print


def known_passes() -> list[str]:
    """Names of all passes between the captured graph and the code generators."""
    return sorted({p.info.name for p in (*pipeline().passes, *PASSES)})


def configuration(options: PassOptions) -> dict[str, bool | int]:
    """The configuration for TVM; whatever is asked for can be had.

    Raises:
        ParameterError: A pass or an option of that name does not exist, or must stay as it is.
    """
    known = known_passes()
    for name in (*options.print_before, *options.print_after, *options.disabled):
        if name not in known:
            raise ParameterError(f"there is no pass {name!r}", hint=nearest(name, known))
    for name in options.disabled:
        if name not in OPTIONAL:
            raise ParameterError(
                f"pass {name} cannot be left out: nothing compiles without it",
                hint=f"these can: {', '.join(OPTIONAL)}",
            )
    return {key: _value(key, text) for key, text in options.config.items()}


@contextmanager
def pass_context(options: PassOptions) -> Iterator[None]:
    """TVM's context for everything that is compiled in it.

    Raises:
        ParameterError: As `configuration`.
    """
    config = configuration(options)
    timer = PassTimingInstrument()
    instruments = [_Printer(options), *([timer] if options.times else [])]
    with tvm.transform.PassContext(
        disabled_pass=list(options.disabled), config=config, instruments=instruments
    ):
        yield
        if options.times:
            options.show(timer.render())


def _value(key: str, text: str) -> bool | int:
    known = tvm.transform.PassContext.list_configs()
    if key not in known:
        raise ParameterError(f"no pass has an option {key!r}", hint=nearest(key, sorted(known)))
    if key in _FORBIDDEN:
        raise ParameterError(f"{key} would change the numbers: it stays as it is")
    kind = str(known[key]["type"])
    if kind not in _SCALARS:
        raise ParameterError(f"{key} is a {kind}: only numbers and true or false can be given")
    try:
        return _SCALARS[kind](text)
    except (KeyError, ValueError) as error:
        raise ParameterError(f"{key} is a {kind}, not {text!r}") from error


@pass_instrument
class _Printer:
    def __init__(self, options: PassOptions) -> None:
        self.options = options

    def run_before_pass(self, module: tvm.IRModule, info: tvm.transform.PassInfo) -> None:
        if info.name in self.options.print_before:
            self.options.show(f"# before {info.name}\n{module.script()}")

    def run_after_pass(self, module: tvm.IRModule, info: tvm.transform.PassInfo) -> None:
        if info.name in self.options.print_after:
            self.options.show(f"# after {info.name}\n{module.script()}")
