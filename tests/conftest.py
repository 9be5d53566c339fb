"""Tests share two cores: more threads in each process would only wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
