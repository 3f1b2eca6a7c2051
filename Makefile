# make demo         checkpoint -> bundle -> attributes of real pedestrians
# make check        format, types, import contracts and the quick tests: while you work, under 3 minutes
# make test         the whole suite but for what `make test-heavy` runs: under 15 minutes on two cores
# make test-heavy   the full-size model, other environments and real servers
# make docs         the documentation site, in build/site; open build/site/index.html
# make wheel        the wheel with the demo bundle in it, in dist/
# make release      wheel and source archive, built twice, checked, with notes and licences; nothing is uploaded
# make tag          make release, then a local tag of this commit
# Each makes its own environment in .venv, from nothing but Python 3.10 or newer.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo wheel release tag check test test-heavy docs environment system lint types layers format clean

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py

wheel: $(INSTALLED)
	$(BIN)/python tools/build_wheel.py

# REHEARSE=1 skips the checks of the CHANGELOG and of uncommitted changes.
release: $(INSTALLED)
	$(BIN)/python tools/release.py $(if $(REHEARSE),--rehearse)

tag: $(INSTALLED)
	$(BIN)/python tools/release.py --tag

# Two test files at a time, as most of a test is one thread's work. Threads that wait do not spin: the others need the cores.
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: lint types layers
	$(PYTEST) --quiet -m "not slow and not heavy"

test: environment
	@$(MAKE) --no-print-directory lint types layers
	$(PYTEST) -m "not heavy"

test-heavy: environment
	$(PYTEST) -m heavy

# Side by side, as both wait for the network.
environment:
	@$(MAKE) --no-print-directory --jobs 2 system $(INSTALLED)

# Chromium, in which the tests look at pages, and GStreamer; without them they skip that.
system:
	.ci/system

# Markdown that the linter reads. Folders are read whole.
MARKDOWN := README.md CHANGELOG.md CONTRIBUTING.md docs models samples tests
PROSE := README.md CONTRIBUTING.md CHANGELOG.md docs seqpar_deploy tests benchmarks examples samples models train export deploy

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell $(PROSE)
	$(BIN)/pymarkdown scan --recurse $(MARKDOWN)

# Any warning fails it: a broken link, a docstring that does not fit its function, a name that does not exist. With
# --quiet mkdocs does not count warnings.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

types: $(INSTALLED)
	$(BIN)/mypy

layers: $(INSTALLED)
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist
