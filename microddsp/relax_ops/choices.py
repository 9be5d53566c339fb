"""Choices of a kernel: ways to compute the same, of which the best is found by measuring.

Who makes a kernel asks `choose` where there is more than one way, and gets the default unless
somebody decided otherwise. Nobody who asks has to know who decides:

- no session: every answer is the default, and nothing is noted;
- listing: answers are defaults, and what was asked is the kernel's space of choices;
- building: the answers are those of a record, or of a candidate that is to be measured.

A kernel is known by its key: a hash of what it is by default. Names do not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tvm import tirx

Value = int | str
# Attribute of a function that holds its key, while there is a session.
KEY = "microddsp.key"


@dataclass(frozen=True, slots=True)
class Choice:
    """One question and its possible answers; the default is one of them."""

    name: str
    values: tuple[Value, ...]
    default: Value


@dataclass(slots=True)
class Answers:
    """What is decided for one kernel, and all that was asked about it."""

    decided: Mapping[str, Value] = field(default_factory=dict)
    asked: dict[str, Choice] = field(default_factory=dict)

    def answer(self, choice: Choice) -> Value:
        """What is decided, in whatever form, if it is still a possible answer."""
        self.asked.setdefault(choice.name, choice)
        wanted = str(self.decided.get(choice.name, choice.default))
        return next((v for v in choice.values if str(v) == wanted), choice.default)

    def given(self) -> dict[str, Value]:
        """All answers, by the names of choices."""
        return {name: self.answer(choice) for name, choice in self.asked.items()}


@dataclass(frozen=True, slots=True)
class Made:
    """A kernel and its arguments before the outputs; constants among them may be its own, and
    states in the places `changed` mean something else than they usually do."""

    function: tirx.PrimFunc
    arguments: tuple[Any, ...]
    changed: frozenset[int] = frozenset()


@dataclass(slots=True)
class Session:
    """Choices of all kernels that are made while it is active.

    `salt` is what a key depends on besides the kernel: its target. `decide` gives the decisions
    for a key, `schedule` a kernel of blocks as decided and what else is decided, each None for the
    default. `makers`, `defaults` and `blocks` tell how kernels can be made again.
    """

    salt: str
    decide: Callable[[str], Mapping[str, Value] | None] = lambda _: None
    schedule: Callable[[str, Any], tuple[tirx.PrimFunc, Mapping[str, Value]] | None] = (
        lambda _key, _function: None
    )
    answers: dict[str, Answers] = field(default_factory=dict)
    makers: dict[str, Callable[[], Made]] = field(default_factory=dict)
    defaults: dict[str, Made] = field(default_factory=dict)
    blocks: dict[str, tirx.PrimFunc] = field(default_factory=dict)

    def of(self, key: str) -> Answers:
        """The answers for one kernel, the same object each time."""
        if key not in self.answers:
            self.answers[key] = Answers(self.decide(key) or {})
        return self.answers[key]


_ANSWERS: ContextVar[Answers | None] = ContextVar("_ANSWERS", default=None)
_SESSION: ContextVar[Session | None] = ContextVar("_SESSION", default=None)


def choose(name: str, values: Sequence[Value], default: Value) -> Any:
    """One of `values`: what is decided for the kernel that is being made, else the default.

    The default is one of the values even where the caller left it out.
    """
    answers = _ANSWERS.get()
    if answers is None:
        return default
    known = tuple(values) if default in values else (default, *values)
    return answers.answer(Choice(name, known, default))


def asking() -> bool:
    """Whether answers may be others than defaults: else a space need not be found out."""
    return _ANSWERS.get() is not None


@contextmanager
def answering(answers: Answers) -> Iterator[Answers]:
    """`choose` answers from there."""
    token = _ANSWERS.set(answers)
    try:
        yield answers
    finally:
        _ANSWERS.reset(token)


@contextmanager
def choosing(session: Session | None) -> Iterator[None]:
    """Kernels that are made inside belong to the session."""
    token = _SESSION.set(session)
    try:
        yield
    finally:
        _SESSION.reset(token)


def session() -> Session | None:
    """The active one."""
    return _SESSION.get()


def made(maker: Callable[[], Made]) -> Made:
    """The kernel of a maker that may ask `choose`; it must give the same for the same answers."""
    active = _SESSION.get()
    if active is None:
        return maker()
    with answering(Answers()) as asked:
        default = maker()
    key = key_of(default, active.salt)
    answers = active.of(key)
    answers.asked |= asked.asked
    active.makers.setdefault(key, maker)
    active.defaults.setdefault(key, default)
    if answers.decided:
        with answering(answers):
            default = maker()
    return replace(default, function=default.function.with_attr(KEY, key))


def call_of(builder: Any, maker: Callable[[], Made], name: str, out: Any) -> Any:
    """A call of the kernel of a maker, added to the module; `out` are the types of its results."""
    from tvm import relax

    kernel = made(maker)
    added = builder.add_func(kernel.function, name)
    return relax.call_tir(added, list(kernel.arguments), out_ty=out)


def key_of(kernel: Made, salt: str) -> str:
    """The same for equal kernels in every pipeline, process and run.

    Whole numbers among the constants steer a kernel; others it only reads, so that weights may be
    trained again.
    """
    import tvm
    import tvm_ffi

    function = kernel.function
    for name in ("global_symbol", KEY):
        function = function.without_attr(name)
    text = hashlib.sha256(f"{tvm_ffi.structural_hash(function)} {salt}".encode())
    for argument in kernel.arguments:
        if isinstance(argument, tvm.ir.GenericConst):
            values = argument.value.numpy()
            text.update(f" {values.dtype} {values.shape}".encode())
            if values.dtype.kind in "iub":
                text.update(np.ascontiguousarray(values).tobytes())
    return text.hexdigest()[:32]
