# Two commands do everything on a fresh machine: `make demo` and `make test`.
# A missing tool is installed: Python packages into .venv, MariaDB from apt where that is possible.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
APP ?= flask
PORT ?= 8000
DATABASE_URL ?= sqlite:///notes.db
BENCH ?= adapters pool replicas

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench soak matrix servers clean

help: ## show the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

# The stamps name what they were made from, so a change of the pins installs again.
$(BIN)/.demo: pyproject.toml constraints.txt
	@test -x $(BIN)/python || { echo "making $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing what the demo needs into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[examples,postgres,mysql]'
	@touch $@

$(BIN)/.dev: pyproject.toml constraints.txt
	@test -x $(BIN)/python || { echo "making $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing everything for tests, lint and benchmarks into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(BIN)/.demo

demo: $(BIN)/.demo ## serve the notes app on http://127.0.0.1:8000 (APP=flask|django|falcon|bottle|tornado PORT= DATABASE_URL=)
	@DATABASE_URL='$(DATABASE_URL)' $(BIN)/python -m example_apps $(APP) --port $(PORT)

servers:
	@tests/servers/install

test: $(BIN)/.dev servers ## run the whole suite (PYTEST="-k flask" to choose)
	@tests/suite $(BIN)/python $(PYTEST)

lint: $(BIN)/.dev ## ruff and mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(BIN)/.dev ## let ruff rewrite the files
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(BIN)/.dev servers ## measure the adapters beside bare frameworks and the documented hooks, the pool beside others, routing beside none (BENCH=pool)
	@for bench in $(BENCH); do $(BIN)/python -m benchmarks.$$bench || exit 1; done

soak: $(BIN)/.dev servers ## a minute of faults on each driver; 10,000 requests on each adapter, a third aborted; the full contract
	@$(BIN)/python -m tests.stress
	@$(BIN)/python -m tests.soak
	@CONTRACT=full $(BIN)/python -m pytest tests/contract
	@$(BIN)/python -m pytest -m soak

matrix: servers ## the suite on every Python 3.10-3.13 found, and once with the lowest supported versions
	@tests/matrix

clean: ## remove what the commands made
	rm -rf $(VENV) .matrix .mypy_cache .ruff_cache .pytest_cache .hypothesis build notes.db notes.db-shm notes.db-wal
	find . -name __pycache__ -prune -exec rm -rf {} +
