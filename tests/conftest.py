"""Each test gives the same wherever it runs: its numbers are drawn anew from one seed, whatever ran
before it in its process, and no slow moment of the computer is a failure."""

import os
import random
import tempfile

# Tests share two cores: more threads in each process would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, register_random, settings

from microddsp.errors import MicroddspError
from microddsp.relax_ops.kernel_cache import cache_folder

SEED = 0
try:
    cache_folder()
except MicroddspError:  # a user without a home that can be written: a folder for this run
    FOLDER = tempfile.TemporaryDirectory(prefix="microddsp-tests-")
    os.environ["MICRODDSP_CACHE_DIR"] = FOLDER.name


class TorchRandom(random.Random):
    """torch's generator, for Hypothesis, which seeds it before each example."""

    def seed(self, a: object = SEED, version: int = 2) -> None:
        assert isinstance(a, int)
        torch.manual_seed(a)

    def getstate(self) -> tuple[int, ...]:
        return tuple(torch.get_rng_state().tolist())

    def setstate(self, state: tuple[int, ...]) -> None:
        torch.set_rng_state(torch.tensor(state, dtype=torch.uint8))


TORCH = TorchRandom(SEED)  # Hypothesis keeps no reference
register_random(TORCH)
# `--hypothesis-profile=default` looks for new examples.
settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    torch.manual_seed(SEED)
