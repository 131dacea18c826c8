# Every target does its own set-up in .venv; nothing else needs to be installed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_OUT ?= runs/stdlib

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check fix docs bench clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

setup: $(STAMP) ## Create .venv and install everything, pinned by constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(STAMP)

demo: setup ## Adapt the bundled model to the Python standard library, search it, write a report
	@$(BIN)/embedworks demo --out $(DEMO_OUT)

test: setup ## Run the tests with coverage
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" -n auto --dist loadscope --cov --cov-report=term:skip-covered

test-all: setup ## Run the tests, the slow ones too, with new random examples
	HYPOTHESIS_PROFILE=search $(BIN)/python -m pytest -q

check: setup ## Formatting, lint, types: what CI runs beside the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: setup ## Format and apply safe lint fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup ## Build the documentation site into site/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	$(BIN)/mkdocs build --strict

bench: setup ## Run the benchmarks (minutes); results go to benchmarks/results/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	$(BIN)/python benchmarks/import_time.py
	$(BIN)/python benchmarks/static_encode.py
	$(BIN)/python benchmarks/adapt_speed.py
	$(BIN)/python benchmarks/objective.py
	$(BIN)/python benchmarks/contrastive_step.py

clean: ## Remove .venv, caches and run folders
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis site runs
