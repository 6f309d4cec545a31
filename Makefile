# Two commands: `make run` sets everything up and does the main comparison, `make test` sets up and tests.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The newest torch of the supported range; pinned so that a machine without a GPU may use a CPU build of it.
TORCH ?= torch==2.13.0

.PHONY: run test check gpu clean

run: $(VENV)/.run-ready
	$(BIN)/membench run iso_flop_8b

test: $(VENV)/.dev-ready
	$(BIN)/python -m pytest -n 2 --dist loadgroup

check: $(VENV)/.dev-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# On a machine with an NVIDIA GPU whose Python has torch: no virtual environment, no network.
gpu:
	$(PYTHON) -m pytest -m gpu tests
	$(PYTHON) -m pytest tests/test_triton_*.py
	$(PYTHON) -m membench run quickstart iso_flop_8b --device cuda --set measure.max_seconds=1
	$(PYTHON) -m membench doctor --device cuda
	$(PYTHON) -m membench run op_bag op_top_k op_experts op_expert_rows --device cuda
	for layer in dense moe memory memory_plus peer; do $(PYTHON) -m membench profile --layer $$layer --device cuda || exit; done
	$(PYTHON) -m benchmarks.clock_check --device cuda

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run-ready: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev-ready: pyproject.toml $(VENV)/.run-ready
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache
