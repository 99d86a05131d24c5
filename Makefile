# Verbs that people and CI share. Each makes its own environment when there is none.
# On Windows: use the commands inside a virtual environment, or run make from Git Bash or WSL.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORE := $(VENV)/.core
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-gpu check bench bench-gpu docs docs-open clean

$(CORE): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e .
	touch $(CORE)

$(READY): $(CORE)
	$(PIP) -e ".[dev]"
	touch $(READY)

demo: $(CORE)
	$(BIN)/blocklora demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --cov --cov-report=term:skip-covered --cov-fail-under=90
	$(BIN)/coverage report --fail-under=100 --include="src/blocklora/adapter/*,src/blocklora/metrics/*,src/blocklora/data/sampling.py"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/adapter_costs.py
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/demo_speed.py
	$(BIN)/python benchmarks/targets.py

test-gpu: $(READY)  # on a machine with CUDA, where constraints.txt takes a CUDA build of torch
	$(BIN)/python -m pytest -m gpu

bench-gpu: $(READY)
	$(BIN)/python benchmarks/gpu.py

docs: $(READY)
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

docs-open: docs
	$(BIN)/python -m webbrowser "file://$(CURDIR)/docs/_build/html/index.html"

clean:
	rm -rf $(VENV) build dist docs/_build docs/_generated .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
