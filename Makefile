# Two commands: `make run` sets everything up and does the main comparison, `make test` sets up and tests.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# What is installed: the same next year. Empty: the newest that pyproject.toml allows.
CONSTRAINTS ?= constraints.txt
INSTALL := $(BIN)/python -m pip install --quiet --no-build-isolation $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
MINUTES ?= 8
DEVICE ?= cuda
BUILD := hatchling hatch-fancy-pypi-readme

.PHONY: run results results-document test test-slow check test-lowest test-newest constraints gpu gpu-wheels clean

run: $(VENV)/.run-ready
	$(BIN)/membench run iso_flop_8b

# Measures every shipped scenario, three rounds or more, then writes docs/results.md: most of an hour on two cores. What
# is recorded already is passed over, unless FORCE=1; a scenario that fails stops neither the next one nor the document.
results: $(VENV)/.dev-ready
	$(BIN)/python -m benchmarks.all_scenarios $(if $(FORCE),--force); code=$$?; \
		$(BIN)/python -m benchmarks.documents && exit $$code

# What documents quote of the files in results/, written anew.
results-document: $(VENV)/.run-ready
	$(BIN)/python -m benchmarks.documents

# By files: what the tests of one share is made once. In their order: the longest, of ab, must not come last and alone.
test: $(VENV)/.dev-ready
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# On request: what takes long and seldom fails, which `test` leaves out.
test-slow: $(VENV)/.dev-ready
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'slow and not gpu'

check: $(VENV)/.dev-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# Slow, on request: all tests at both ends of the ranges in pyproject.toml, each end in an environment of its own.
test-lowest:
	rm -rf $(VENV)-lowest
	$(MAKE) test VENV=$(VENV)-lowest CONSTRAINTS=constraints-lowest.txt

test-newest:
	rm -rf $(VENV)-newest
	$(MAKE) test VENV=$(VENV)-newest CONSTRAINTS=

# Writes constraints.txt anew, but for its torch and the Triton that this torch asks for: change those two by hand.
constraints:
	rm -rf $(VENV)-constraints
	grep -E '^(torch|triton)==' constraints.txt > $(VENV)-constraints.txt
	$(MAKE) $(VENV)-constraints/.dev-ready VENV=$(VENV)-constraints CONSTRAINTS=$(VENV)-constraints.txt
	echo '# Written by `make constraints`: what `make run` and `make test` install.' > constraints.txt
	$(VENV)-constraints/bin/python -m pip freeze --all --exclude pip --exclude-editable \
		| grep -Ev '^(nvidia-[^m]|cuda-)' | sed -E 's/\+.*//' >> constraints.txt
	rm -rf $(VENV)-constraints $(VENV)-constraints.txt

# With a network: the packages that a machine with a GPU may lack, into gpu-wheels/.
gpu-wheels: $(VENV)/.dev-ready
	$(BIN)/python -m benchmarks.gpu.wheels

# On a machine with an NVIDIA GPU whose Python has torch: no virtual environment, no network. See docs/gpu.md.
gpu:
	$(PYTHON) -m benchmarks.gpu $(or $(OUT),gpu-out) --minutes $(MINUTES) --device $(DEVICE)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run-ready: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	$(INSTALL) $(BUILD)
	$(INSTALL) --editable .
	touch $@

$(VENV)/.dev-ready: pyproject.toml $(VENV)/.run-ready
	$(INSTALL) --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-newest build dist .pytest_cache .ruff_cache
