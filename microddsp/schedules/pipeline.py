"""The passes between a captured graph and kernels, in order."""

from __future__ import annotations

import tvm
from tvm import relax

from microddsp.schedules.fuse_convolutions import FuseConvolutions
from microddsp.schedules.fuse_frames import FuseFrames
from microddsp.schedules.fuse_sample_loops import FuseSampleLoops
from microddsp.schedules.kernels import ScheduleKernels
from microddsp.schedules.pointwise import SplitPointwise

# Operators that only give memory another shape; they cost nothing later.
VIEWS = ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten")


def pipeline(*, unroll: int | None = None) -> tvm.transform.Pass:
    """Sample loops first: ordinary fusion does not know time and would split them.

    AnnotateTIROpPattern must run before FuseOps, which else fuses nothing, silently.
    """
    return tvm.transform.Sequential(
        [
            relax.transform.CanonicalizeBindings(),
            SplitPointwise(),
            FuseConvolutions(),
            FuseFrames(),
            FuseSampleLoops(unroll),
            relax.transform.LegalizeOps(skip_ops=list(VIEWS)),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FoldConstant(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination(),
            relax.transform.CanonicalizeBindings(),
            ScheduleKernels(),
        ],
        name="microddsp",
    )
