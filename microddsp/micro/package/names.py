"""Names that reach C, Make and file names: identifiers of C and C++, and no keywords."""

from __future__ import annotations

import re

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_KEYWORDS = frozenset(
    "alignas alignof and and_eq asm auto bitand bitor bool break case catch char class compl const "
    "constexpr continue decltype default delete do double else enum explicit export extern false "
    "float for friend goto if inline int long mutable namespace new noexcept not not_eq nullptr "
    "operator or or_eq private protected public register reinterpret_cast restrict return short "
    "signed sizeof static struct switch template this throw true try typedef typename union "
    "unsigned using virtual void volatile wchar_t while xor xor_eq".split()
)

# `<name>_t`, a macro, or a file beside the model's own or of C's library: these names are taken
_TAKEN = frozenset(
    "size ssize ptrdiff max_align wchar wint int8 int16 int32 int64 uint8 uint16 uint32 uint64 "
    "intptr uintptr intmax uintmax float double time clock va_list NULL Makefile app board "
    "startup port faults frames uart stdio main rpc_server rpc_heap rpc_models rpc_wire math "
    "string stdint stddef stdbool assert complex ctype errno fenv inttypes iso646 limits locale "
    "setjmp signal stdalign stdarg stdatomic stdlib stdnoreturn tgmath threads uchar wctype".split()
)


def is_model_name(name: str) -> bool:
    """Whether `name` can prefix everything of a model, and name its files."""
    return is_c_name(name) and name not in _TAKEN


def is_c_name(name: str) -> bool:
    """Whether `name` can name a thing in generated C that C++ may include."""
    return bool(_IDENTIFIER.fullmatch(name)) and name not in _KEYWORDS
