# Every target sets itself up from nothing but python3 >= 3.11 with venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2

.PHONY: demo test test-all coverage check bench bench-peers clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[jobs,dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python examples/demo.py

test: $(STAMP)
	$(BIN)/pytest -n $(JOBS) -m "not slow"

test-all: $(STAMP)
	$(BIN)/pytest -n $(JOBS)

# Branches of the store that the tests of `make test` reach; figures a room.
coverage: $(STAMP)
	$(BIN)/pytest -n $(JOBS) -m "not slow" tests/dfs --cov=dfs --cov-branch --cov-report=term-missing:skip-covered

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest tests/test_architecture.py

bench: $(STAMP)
	$(BIN)/python -m benchmarks

bench-peers:
	$(PYTHON) -m venv benchmarks/.venv
	benchmarks/.venv/bin/pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt

clean:
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .import_linter_cache
