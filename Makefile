# Everything a person types. Needs Python >= 3.11, make and network; nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# One more than the cores of a small machine: many tests wait for processes they started.
WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help install demo test up lint bench lock clean

help: ## What can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/'

install: $(INSTALLED) ## Make .venv with exactly the locked versions

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@# --no-deps: the lock is whole, and pip, left to resolve, asks for the newest of what an extra needs.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check --disable-pip-version-check
	@touch $@

demo: $(INSTALLED) ## Train, gate, release, audit and watch two models; then attack them
	@$(BIN)/secmon demo

test: $(INSTALLED) ## The whole test suite
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(PYTEST_ARGS)

up: $(INSTALLED) ## Database, UI, daemon, signer, API and metrics in the foreground
	@$(BIN)/secmon up

lint: $(INSTALLED) ## Format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED) ## All benchmarks, each side by side with a named peer
	@$(BIN)/python -m benchmarks

lock: ## Renew requirements.lock (needs uv)
	uv pip compile --universal --generate-hashes --no-emit-index-url \
	  --group dev pyproject.toml \
	  -o requirements.lock --upgrade

clean: ## Remove local state and the environment
	-@$(BIN)/secmon db stop 2>/dev/null
	rm -rf .secmon $(VENV) test-artifacts
