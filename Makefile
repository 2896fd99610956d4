# Every target that needs the environment makes it first; CI calls the same ones.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help run test bench fuzz lint fmt type check clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or newer, or run make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Pilotlight needs Python 3.11 or newer: run make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Installing into $(VENV) (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e . --group dev
	@touch $@

run: $(STAMP) ## Set up, then show a model lighting from zero (pilotlight demo)
	@$(BIN)/pilotlight demo

test: $(STAMP) ## Set up, then run every test
	@$(BIN)/python -m pytest -n 2 --max-worker-restart 0

bench: $(STAMP) ## Cold start here against Ray Serve + transformers, in one run
	@$(BIN)/pilotlight bench cold

fuzz: $(STAMP) ## A million mutated headers (installs atheris)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check atheris
	@$(BIN)/python scripts/fuzz_header.py --inputs 1000000 --seed 1

lint: $(STAMP) ## ruff, formatting, import rules
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports

fmt: $(STAMP) ## Format and fix what can be fixed
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

type: $(STAMP) ## mypy --strict
	@$(BIN)/mypy

check: lint type test ## Everything that CI runs

clean: ## Remove what make and the tests made (not ~/.pilotlight)
	@rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
