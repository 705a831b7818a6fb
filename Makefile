# The two commands are `make demo` and `make test`; both make .venv first.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
JOBS   ?= 2# tests at once

.PHONY: demo test check run format lint types tests many simulate mutations bench clean

$(BIN)/relayd: pyproject.toml relayd/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "relayd needs Python 3.11 or newer"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	@touch $@

$(VENV)/dev: $(BIN)/relayd
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(BIN)/relayd
	$(BIN)/relayd demo

run: $(BIN)/relayd
	$(BIN)/relayd --config config.example.toml

test check: lint types tests

format: $(VENV)/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/dev
	$(BIN)/mypy

tests: $(VENV)/dev
	$(BIN)/pytest -n $(JOBS)

many: $(VENV)/dev
	RELAYD_DROPPED_FILES=200000 $(BIN)/pytest tests/submission/test_many_files.py

# SEEDS=n, or MESSAGES=n; FIRST=n is the first seed.  A seed that fails is replayed and shrunk by `--seed n`.
SEEDS ?= 3000
simulate: $(VENV)/dev
	$(BIN)/python -m tests.simulation --jobs $(JOBS) --first $(or $(FIRST),0) $(if $(MESSAGES),--messages $(MESSAGES),--seeds $(SEEDS))

# BENCH=--quick only sees whether they work.  Those whose producers make files come before those that remove many.
BENCHMARKS = idle steady blackhole drain distance engine crossing latency large million
bench: $(VENV)/dev
	@for each in $(BENCHMARKS); do \
		echo; echo "== $$each"; $(BIN)/python -m benchmarks.$$each $(BENCH) || exit 1; \
	done

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
