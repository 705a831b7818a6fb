# The two commands are `make demo` and `make test`; both make .venv first.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
JOBS   ?= 3# tests at once

.PHONY: demo test check run format lint types tests many sweeps faults simulate mutations kill-sweep power-cut fuzz \
        bench soak lock man deb try-deb clean

# What is installed is what the two lock files name, by version and by hash: requirements.lock has what relayd needs,
# requirements-dev.lock that and all else.  relayd itself is built with what is there then.
# dkimpy has no wheel; it is Python alone, and built from its source, whose hash is there too.
LOCKED  = $(BIN)/pip install --quiet --require-hashes --only-binary :all: --no-binary dkimpy --requirement
OURSELF = $(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .

$(BIN)/relayd: requirements.lock pyproject.toml relayd/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "relayd needs Python 3.11 or newer"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(LOCKED) requirements.lock
	$(OURSELF)
	@touch $@

$(VENV)/dev: $(BIN)/relayd requirements-dev.lock
	$(LOCKED) requirements-dev.lock
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
	$(BIN)/pytest -n $(JOBS) --dist worksteal

many: $(VENV)/dev
	RELAYD_DROPPED_FILES=200000 $(BIN)/pytest tests/submission/test_many_files.py

# What the tests do a part of, in full.
sweeps: $(VENV)/dev
	RELAYD_SWEEP_STEP=1 $(BIN)/pytest -n $(JOBS) tests/relay/test_close_sweep.py

# The tables of faults in full and in the sizes that docs/reliability.md tells; `make tests` has a part of each.
faults: $(VENV)/dev
	RELAYD_FAULTS=all $(BIN)/pytest -n $(JOBS) --timeout 1800 tests/faults

# SEEDS=n, or MESSAGES=n; FIRST=n is the first seed.  A seed that fails is replayed and shrunk by `--seed n`.
SEEDS ?= 3000
simulate: $(VENV)/dev
	$(BIN)/python -m tests.simulation --jobs $(JOBS) --first $(or $(FIRST),0) \
		$(if $(MESSAGES),--messages $(MESSAGES),--seeds $(SEEDS))

# Known bugs, one at a time; one that the simulation does not find fails this.
mutations: $(VENV)/dev
	$(BIN)/python -m tests.simulation.mutations --jobs $(JOBS)

# Both need root and strace, and take an hour or two.  A kill-sweep that was interrupted goes on where it was.
kill-sweep: $(VENV)/dev
	$(BIN)/python -m tests.kills --jobs $(JOBS)
	$(BIN)/python -m tests.kills --errors --jobs $(JOBS)

power-cut: $(VENV)/dev
	$(BIN)/python -m tests.power --jobs $(JOBS)

# BENCH=--quick only sees whether they work.  Those whose producers make files come before those that remove many.
BENCHMARKS = idle steady blackhole drain distance engine crossing latency large million
bench: $(VENV)/dev
	@for each in $(BENCHMARKS); do \
		echo; echo "== $$each"; $(BIN)/python -m benchmarks.$$each $(BENCH) || exit 1; \
	done

# An hour.  SOAK="--fresh --figure docs/figures/soak.svg" as root: on a file system of its own, and drawn.
soak: $(VENV)/dev
	$(BIN)/python -m benchmarks.soak $(SOAK)

# Coverage-guided fuzzing, SECONDS for each of TARGETS (all, if none is named): see tests/fuzz/.
SECONDS ?= 60
fuzz: $(VENV)/dev
	$(BIN)/pip install --quiet --editable '.[fuzz]' --no-build-isolation
	$(BIN)/python -m tests.fuzz $(TARGETS) --seconds $(SECONDS)

# Take the newest versions that pyproject.toml allows into the lock files (docs/security.md, "Dependencies").
UV       = $(VENV)/lock/bin/uv pip compile --quiet --universal --upgrade --generate-hashes --python-version 3.11 \
           --no-annotate --no-strip-extras --custom-compile-command 'make lock' pyproject.toml
lock:
	$(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/pip install --quiet 'uv>=0.9'
	printf 'editables\nhatchling\n' | $(UV) - --output-file requirements.lock
	$(UV) --extra dev --constraints requirements.lock --output-file requirements-dev.lock

# Manual pages, from the command line's own help; a Debian package with all that it needs; the package, tried in a new root.
man: $(BIN)/relayd
	$(BIN)/python packaging/man.py build/man

deb:
	packaging/deb

try-deb: deb
	timeout 900 packaging/try-deb

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
