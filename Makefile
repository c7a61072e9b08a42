# `make study` and `make test` do all the set-up on a machine with Python and git.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
MARKS ?= not gpu

.PHONY: study test lint docs benchmark clean

study: $(VENV)/.ready
	$(BIN)/python -m studies.digits

# Each worker has a core of its own.
test: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "$(MARKS)"

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, into build/site.
docs: $(VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Replays every pruner and races every search over the recorded tables, and draws the figures: not
# quite two hours on two cores. What was raced before is kept.
benchmark: $(VENV)/.ready
	PIP_CONSTRAINT=$(CONSTRAINTS) $(BIN)/python -m pip install -q -e ".[dev,race]"
	$(BIN)/python -m benchmarks.decisions.ranking
	$(BIN)/python -m benchmarks.decisions.pruning
	$(BIN)/python -m benchmarks.race.transfer
	$(BIN)/python -m benchmarks.race

# The constraints reach pip through the environment, so that they also hold while a package builds.
$(VENV)/.ready: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=$(CONSTRAINTS) $(BIN)/python -m pip install -q -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
