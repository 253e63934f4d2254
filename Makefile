# `make demo` and `make test` do all set-up themselves; they need Python >= 3.11, make and a compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test test-slow test-benchmarks methods docs lint clean
.DELETE_ON_ERROR:

help:
	@echo "make demo   install into $(VENV), run the demo, write demo/report.html"
	@echo "make test   install with the test tools, run the tests but for the slow ones"
	@echo "make test-slow   the tests that take more than a second each"
	@echo "make test-benchmarks   the tests that run benchmarks: published scores are reached"
	@echo "make methods   the table of docs/methods.md and the public names, after a change of a method"
	@echo "make docs   the site, into site/; it runs the tutorials, and keeps what has not changed"
	@echo "make lint   formatting, lint, types"
	@echo "make clean  remove what the others made"

demo: $(VENV)/.installed
	$(BIN)/scorda demo
	@echo "The report is at $(CURDIR)/demo/report.html"

# One thread per worker: two workers of two threads each would only wait for each other.
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m "not benchmark and not slow"

test-slow: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m "slow and not benchmark"

test-benchmarks: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m benchmark

methods: $(VENV)/.installed-dev
	$(BIN)/python docs/methods.py

# Warnings are errors: a link to nowhere, a page that no other names, a tutorial that fails.
docs: $(VENV)/.installed-docs
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -b html -W -n -d site/.doctrees docs site
	$(BIN)/python docs/check.py site
	@echo "The site is at $(CURDIR)/site/index.html"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo site docs/learn docs/examples docs/reference/generated docs/reference/used build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Scorda needs Python 3.11 or newer; name one with make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The stamps depend on what decides the installation; the sources are installed in place.
$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(INSTALL) --editable '.[docs]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) --editable '.[dev]'
	@touch $@
