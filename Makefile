# Two commands do everything in a fresh clone, their own set-up (.venv) included: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.installed
RUN := $(BIN)/python
PINNED_TORCH := $(shell grep '^torch==' constraints.txt)

# The bundled model's matrices are too small for threads, which cost several times their gain on a busy machine.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-all test-fast test-slow test-ndif bench bench-remote coverage lint constraints clean

# Every experiment of the paper on the bundled model: runs/demo/summary.json and runs/demo/report.html.
demo: $(READY)
	$(BIN)/emotrace run paper --model bundled --out runs/demo

# Style, types, import layers and the fast tests.
test: lint test-fast

# The same, the slow tests, line coverage over both, and every protocol on a real NDIF server.
test-all: $(READY)
	$(BIN)/coverage erase
	$(MAKE) --no-print-directory test RUN="$(BIN)/coverage run"
	$(MAKE) --no-print-directory test-slow RUN="$(BIN)/coverage run"
	$(MAKE) --no-print-directory coverage
	$(MAKE) --no-print-directory test-ndif

test-fast: $(READY)
	$(RUN) -m pytest -m "not slow and not ndif"

test-slow: $(READY)
	$(RUN) -m pytest -m "slow and not ndif"

# Installs the published NDIF server in .ndif (or $$EMOTRACE_NDIF_HOME), starts it on loopback, and stops it.
test-ndif: $(READY)
	$(RUN) -m pytest tests/ndif

# Traffic with that server, for emotrace and for a client that downloads activations.
bench-remote: $(READY)
	$(BIN)/python -m benchmarks.remote

# Speed and memory against peers, each in an environment of its own in .bench: benchmarks/results (BENCH=names for some).
bench: $(READY)
	$(BIN)/python -m benchmarks $(BENCH)

coverage: $(READY)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# torch first and alone, so that pip takes the build that fits the machine.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("emotrace needs Python 3.11 or later: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PINNED_TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

# Pin what the bounds in pyproject.toml resolve to today.
constraints:
	rm -rf .venv-fresh
	$(PYTHON) -m venv .venv-fresh
	.venv-fresh/bin/python -m pip install --quiet -e ".[dev,gpu]"
	head -n 1 constraints.txt > .venv-fresh/pins
	.venv-fresh/bin/python -m pip freeze --all --exclude pip --exclude-editable | sed 's/+cpu$$//' >> .venv-fresh/pins
	mv .venv-fresh/pins constraints.txt
	rm -rf .venv-fresh

clean:
	rm -rf .venv .venv-fresh .ndif .bench runs .coverage .coverage.*
