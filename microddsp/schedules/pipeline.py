"""The passes between a captured graph and kernels, in order."""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import relax

from microddsp.relax_ops.origins import Units
from microddsp.schedules.fuse_convolutions import FuseConvolutions
from microddsp.schedules.fuse_frames import FuseFrames
from microddsp.schedules.fuse_sample_loops import FuseSampleLoops
from microddsp.schedules.kernels import ScheduleKernels
from microddsp.schedules.origins import after_fusion, after_legalisation, from_spans, of_calls
from microddsp.schedules.pointwise import SplitPointwise
from microddsp.schedules.read_at import read_at
from microddsp.schedules.sample_loop import USUAL, LoopShape

# Operators that only give memory another shape; they cost nothing later.
VIEWS = ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten")


def pipeline(loops: LoopShape = USUAL) -> tvm.transform.Pass:
    """Sample loops first: ordinary fusion does not know time and would split them.

    AnnotateTIROpPattern must run before FuseOps, which else fuses nothing, silently.
    """
    return tvm.transform.Sequential(
        [
            relax.transform.CanonicalizeBindings(),
            SplitPointwise(),
            FuseConvolutions(),
            FuseFrames(),
            FuseSampleLoops(loops),
            relax.transform.LegalizeOps(
                customize_legalize_map={"relax.take": read_at}, skip_ops=list(VIEWS)
            ),
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


def lower(mod: tvm.IRModule, loops: LoopShape = USUAL) -> tuple[tvm.IRModule, list[Units]]:
    """Run the pipeline; for each `call_tir` that is left also the units that it computes."""
    passes = list(pipeline(loops).passes)
    place = {p.info.name: i for i, p in enumerate(passes)}
    looped = _run(mod, passes[: place["LegalizeOps"]])
    units = from_spans(looped)
    apart = _run(looped, passes[place["LegalizeOps"] : place["FuseOps"]])
    fused = _run(apart, passes[place["FuseOps"] : place["FuseTIR"]])
    calls = after_fusion(fused, apart, after_legalisation(apart, units))
    lowered = _run(fused, passes[place["FuseTIR"] :])
    return lowered, of_calls(lowered, calls)


def _run(mod: tvm.IRModule, passes: Sequence[tvm.transform.Pass]) -> tvm.IRModule:
    return tvm.transform.Sequential(list(passes), name="microddsp")(mod)
