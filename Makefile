# Every target sets up .venv by itself.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# One XLA thread a worker: two workers on two cores, not four threads.
PYTEST = NPROC=1 JAX_COMPILATION_CACHE_DIR=$(CURDIR)/$(VENV)/jax-cache $(BIN)/python -m pytest -q -n 2 --dist loadgroup --durations 12

.PHONY: demo test test-slow parity mutants docs lint types clean

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e .[test]
	touch $@

# More steps go on where the last demo stopped: make demo STEPS=12000
demo: $(VENV)/installed  ## the main job on the embedded corpus: train, translate, score, draw
	$(BIN)/python -m experiments.demo $(if $(STEPS),--steps $(STEPS))

# LLVM's optimiser would take half of the time; parity and the demo run with it.
test: $(VENV)/installed  ## everything a change can break
	XLA_FLAGS=--xla_backend_optimization_level=0 $(PYTEST) -m "not slow and not parity"

test-slow: $(VENV)/installed  ## kills, other Pythons, long properties
	XLA_FLAGS=--xla_backend_optimization_level=0 $(PYTEST) -m slow --timeout 1200

# torch 2.13.0 is a CPU build; a plain `torch` may bring gigabytes of CUDA.
$(VENV)/parity-installed: $(VENV)/installed
	$(BIN)/python -m pip install --quiet torch==2.13.0 || $(BIN)/python -m pip install --quiet torch
	$(BIN)/python -m pip install --quiet -e .[parity]
	touch $@

parity: $(VENV)/parity-installed  ## against torch, Hugging Face, CTranslate2 and PYEVALB
	$(BIN)/python -c "import PYEVALB, ctranslate2, torch, transformers"  # without them tests skip silently
	$(PYTEST) -m parity tests/parity

mutants: $(VENV)/installed  ## breaks named lines one at a time; every break must be caught
	$(BIN)/python -m tests.mutants

$(VENV)/docs-installed: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -e .[docs]
	touch $@

docs: $(VENV)/docs-installed  ## the site in build/site/html, its notebooks executed; any warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going -c docs -d build/site/doctrees . build/site/html

lint: $(VENV)/installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports

types: $(VENV)/installed
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build
