# make demo   checkpoint -> bundle -> attributes of real pedestrians
# make test   everything CI runs
# Both make their own environment in .venv, from nothing but Python 3.10 or newer.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test environment system lint types layers unit format clean

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py

test: environment
	@$(MAKE) --no-print-directory lint types layers unit

# Side by side, as both wait for the network.
environment:
	@$(MAKE) --no-print-directory --jobs 2 system $(INSTALLED)

# Chromium, in which the tests look at pages, and GStreamer; without them they skip that.
system:
	.ci/system

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

layers: $(INSTALLED)
	$(BIN)/lint-imports

# Two at a time, as most of a test is one thread's work. Threads that wait do not spin, as the others need the cores.
unit: $(INSTALLED)
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist
