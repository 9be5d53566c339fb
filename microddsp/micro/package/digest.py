"""A short hash that ties a header, a source file and an archive together."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

_BANNER_DIGEST = re.compile(r"\(model digest [0-9a-f]*\)")


def digest_of(sources: Mapping[str, str]) -> str:
    """A hash of the generated files, their own mention of it left out."""
    text = "".join(f"{name}\n{_BANNER_DIGEST.sub('', sources[name])}" for name in sorted(sources))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
