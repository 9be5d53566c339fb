"""From scheduled functions to plain loops over flat memory."""

from __future__ import annotations

import tvm
from tvm import s_tir, tirx

# Order: blocks to plain loops, indices to 32 bits, then storage is shared (StorageRewrite) before
# loops are unrolled. CommonSubexprElim is left out: it would bind loads before stores between.
PASSES = [
    s_tir.transform.CanonicalizeLoop(),
    s_tir.transform.LowerInitBlock(),
    s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
    s_tir.transform.ConvertBlocksToOpaque(),
    s_tir.transform.CompactBufferAllocation(),
    s_tir.transform.LowerMatchBuffer(),
    s_tir.transform.StmtSimplify(),
    s_tir.transform.LowerOpaqueBlock(),
    tirx.transform.FlattenBuffer(),
    tirx.transform.NarrowDataType(32),
    s_tir.transform.LoopPartition(),
    tirx.transform.VectorizeLoop(False),
    tirx.transform.StorageRewrite(),
    s_tir.transform.HoistIfThenElse(),
    tirx.transform.UnrollLoop(),
    s_tir.transform.RenormalizeSplitPattern(),
    tirx.transform.StmtSimplify(),
    tirx.transform.RemoveNoOp(),
]

# A function that is loops already (a sample loop) is printed as it was built: simplification
# would substitute bound values back into every use.
_LOOP_PASSES = [
    tirx.transform.FlattenBuffer(),
    tirx.transform.NarrowDataType(32),
    tirx.transform.UnrollLoop(),
    tirx.transform.RemoveNoOp(),
]


def plain_loops(func: tirx.PrimFunc, name: str) -> tirx.PrimFunc:
    """Blocks become loops, tensors one-dimensional, indices 32 bit wide."""
    target = tvm.target.Target({"kind": "c", "keys": ["cpu"]})
    mod = tvm.IRModule({name: func.with_attr("global_symbol", name)})
    mod = tirx.transform.BindTarget(target.with_host(target))(mod)
    blocks = isinstance(func.body, s_tir.SBlockRealize)
    return tvm.ir.transform.Sequential(PASSES if blocks else _LOOP_PASSES)(mod)[name]
