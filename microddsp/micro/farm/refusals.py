"""What a server of a farm says when it does not start a board, in an RPC error and out of it."""

from __future__ import annotations

import base64
import json
import re

from microddsp.errors import BoardError, LinkError, ServerLostError

_KINDS = {kind.__name__: kind for kind in (BoardError, LinkError, ServerLostError)}
_MARK = re.compile(r"Refused<([A-Za-z0-9+/=]*)>")


def refused(error: BoardError) -> RuntimeError:
    """The error for TVM to carry: its text is decorated and wrapped on the way."""
    kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _KINDS)
    facts = [kind, error.message, error.where, error.hint]
    return RuntimeError(f"Refused<{base64.b64encode(json.dumps(facts).encode()).decode()}>")


def refusal(text: str) -> BoardError | None:
    """The error in a text of TVM's; None if there is none."""
    found = _MARK.search(text)
    if found is None:
        return None
    try:
        name, message, where, hint = json.loads(base64.b64decode(found[1]))
        kind = _KINDS[name]
    except (ValueError, KeyError):
        return None
    return kind(str(message), where=str(where), hint=str(hint))
