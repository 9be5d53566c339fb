"""Torch operators that TVM's importer lacks.

Most are written with others in torch itself (`decompositions`); the rest get a kernel.
"""

from __future__ import annotations

from microddsp.frontend.aten.decompositions import decompositions
from microddsp.frontend.aten.elementwise import ELEMENTWISE
from microddsp.frontend.aten.loops import Converter
from microddsp.frontend.aten.running import RUNNING
from microddsp.frontend.aten.scattering import SCATTERING
from microddsp.frontend.aten.sorting import SORTING

KERNELS: dict[str, Converter] = {**ELEMENTWISE, **RUNNING, **SCATTERING, **SORTING}

__all__ = ["KERNELS", "decompositions"]
