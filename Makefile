# Everything runs in .venv, which scripts/setup makes on first use. `make demo ARGS="--quick"` passes arguments on.
BIN := .venv/bin
# Where it is set, every process compiles again what it imports of ours.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo check test exhaustive lint clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## Install everything into .venv (CPU or GPU, as the machine has it)
	@scripts/setup

demo: setup  ## From raw text to a chat with a model trained here
	@$(BIN)/ctl demo $(ARGS)

lint: setup  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint  ## Check style and types and run the tests that start nothing
	$(BIN)/pytest -n 2 --dist loadfile -m "not heavy" $(ARGS)

# Two files of tests at a time, those that share a cluster one after the other (tests/conftest.py).
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder
test: lint  ## Check style and types and run the tests
	$(PYTEST) -m "not exhaustive" $(ARGS)

exhaustive: lint  ## The same, with tests that try at length what another shows once: before a release
	$(PYTEST) $(ARGS)

clean:  ## Remove .venv and caches (artifacts stay)
	rm -rf .venv *.egg-info build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './artifacts/*' -prune -exec rm -rf {} +
