# `make demo` and `make test` do everything, from a bare Python 3.11 on.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Files that tests/judges reads by path, beside the environment: transformers would import these packages.
JUDGES := einops fla-core tree-recurrence

.PHONY: demo test test-slow test-browser test-all lint install clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --target $(VENV)/judges $(JUDGES)
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/braid study recipes/demo.study.toml --out runs/demo --resume
	$(BIN)/braid report runs/demo --out runs/demo/report.html

test: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

test-slow: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m slow

test-browser: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 -m browser tests/browser

test-all: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m 'slow or not slow'

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/pyright

clean:
	rm -rf $(VENV) build *.egg-info
