# `make demo` and `make test` need nothing but Python 3.11 or newer: they build .venv themselves.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint format docs clean

demo: $(READY)  ## train, convert, fine-tune, pack and score an English-German model (ARGS="--minutes 3" for a short one)
	$(BIN)/shiftadd demo $(ARGS)

test: $(READY)  ## all tests, doctests and the examples in README and docs
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(READY)  ## style, types, and the floors that imports may cross
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## the guides and the reference as a site in site/
	$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; say which: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $(READY)

clean:
	rm -rf .venv site .pytest_cache .mypy_cache .ruff_cache
