"""What MetaSchedule's search thinks of candidates before they are measured."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import tvm
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule.cost_model.xgb_model import XGBConfig, XGBModel
from tvm.s_tir.meta_schedule.feature_extractor import PerStoreFeature, PyFeatureExtractor

# Before so many trials the predictions are random.
_WARM_UP = 24
_PLACES = 48


@derived_object
class Decisions(PyFeatureExtractor):
    """MetaSchedule's own features of each store, and the decisions of the trace beside them: what
    is chosen for a template is not seen in its stores."""

    def __init__(self) -> None:
        super().__init__()
        self.stores = PerStoreFeature()

    def extract_from(self, context: Any, candidates: list[Any]) -> list[Any]:
        """One matrix for each candidate."""
        stores = self.stores.extract_from(context, candidates)
        return [
            tvm.runtime.tensor(_beside(rows.numpy(), decisions_of(candidate.sch.trace)))
            for rows, candidate in zip(stores, candidates, strict=True)
        ]


def _beside(rows: np.ndarray, decisions: list[float]) -> np.ndarray:
    known = np.zeros(_PLACES)
    known[: len(decisions)] = decisions[:_PLACES]
    rows = rows if len(rows) else np.zeros((1, rows.shape[1]))
    return np.hstack([rows, np.tile(known, (len(rows), 1))])


def decisions_of(trace: Any) -> list[float]:
    """All sampled numbers of a trace, in its order."""
    found: list[float] = []
    for instruction in trace.insts:
        decision = trace.decisions.get(instruction)
        if decision is not None:
            found += [float(v) for v in np.atleast_1d(np.array(_plain(decision), "float64"))]
    return found


def _plain(decision: Any) -> Any:
    try:
        return [int(v) for v in decision]
    except TypeError:
        return int(decision)


def cost_model(seed: int) -> tuple[ms.CostModel, str]:
    """XGBoost's if it is installed, else MetaSchedule's random one; and its name."""
    if importlib.util.find_spec("xgboost") is None:
        return ms.cost_model.RandomModel(seed=seed), "random"
    config = XGBConfig(seed=seed, nthread=1)
    model = XGBModel(extractor=Decisions(), config=config, num_warmup_samples=_WARM_UP)
    return model, "xgboost"
