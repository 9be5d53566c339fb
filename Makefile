# `make demo` and `make test` need only Python 3.11+ and, once, root or sudo on a Debian.

SHELL := /bin/bash
PYTHON_VENV := .venv/bin/python
# Two test processes share the machine: more threads in each would only get in each other's way.
WORKERS ?= 2
TEST := OMP_NUM_THREADS=1 $(PYTHON_VENV) -m pytest -q -n $(WORKERS) --dist=loadfile

.PHONY: help setup demo test check-full bench lint clean

help:
	@echo 'make demo        train a heart-beat counter, compile it, run it on QEMU'
	@echo 'make test        linters, types and tests (under 15 minutes on two cores)'
	@echo 'make check-full  all that, the long tests on every QEMU board, and Zephyr (ZEPHYR_BASE)'
	@echo 'make bench       measure speed, size and precision'
	@echo 'make lint        linters and types only'
	@echo 'make clean       remove what the build and the tests left behind'

setup:
	@tools/setup.sh

demo: setup
	@$(PYTHON_VENV) examples/heartbeat/run.py

lint: setup
	$(PYTHON_VENV) -m ruff check .
	$(PYTHON_VENV) -m ruff format --check .
	$(PYTHON_VENV) -m mypy

test: lint
	@tools/packages.sh analysis browser sounds
	$(TEST)

check-full: lint
	@tools/packages.sh analysis browser sounds
	$(TEST) -m 'not board and not gpu'

# A peer that cannot be had is left out of the table. The rest needs no rights.
bench: setup
	-@command -v faust >/dev/null || tools/packages.sh peers
	@echo '== device'; OMP_NUM_THREADS=1 $(PYTHON_VENV) -m benchmarks.device
	@echo '== training'; OMP_NUM_THREADS=1 $(PYTHON_VENV) -m benchmarks.training
	@echo '== link'; OMP_NUM_THREADS=1 $(PYTHON_VENV) -m benchmarks.link

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis ./*.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
