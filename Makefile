# Every target does its own set-up in .venv on a fresh machine with Python 3.10 or newer.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= pnpxai-demo

.PHONY: demo test lint bench zoo clean
.DELETE_ON_ERROR:

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.demo

demo: $(VENV)/.demo  ## explain real photographs with a pretrained network
	$(BIN)/python -m pnpxai demo --out $(OUT)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint  ## everything that continuous integration runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

bench: $(VENV)/.dev  ## measured tables, written to benchmarks/results
	$(BIN)/python -m benchmarks.grid_game

zoo: $(VENV)/.dev  ## recommend() on a range of architectures, written to benchmarks/results
	$(BIN)/python -m benchmarks.zoo

clean:
	rm -rf $(VENV) build dist pnpxai-demo
