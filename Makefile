# make run     make .venv, install, fetch the embedded model, serve http://localhost:5000
# make demo    the same with simulated providers: no key, nothing leaves the machine
# make test    install what tests need and run them
# make check   format, lint, types, import rules
# make bench   the benchmarks, which print figures and judge nothing
# make bench-faults   every fault through both routers, measured and judged, into docs/faults.md (three minutes)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: run demo install model test check format bench bench-faults clean

run: $(VENV)/.run model
	$(BIN)/python main.py $(ARGS)

demo: $(VENV)/.run model
	$(BIN)/python main.py --demo $(ARGS)

install: $(VENV)/.run

# The program runs without the weights: it then says so and asks the providers alone.
model: $(VENV)/.run
	@$(BIN)/python -m fallback.local install || echo "Going on without the embedded model."

test: $(VENV)/.dev model
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.core
	$(BIN)/python -m benchmarks.usage_log
	$(BIN)/python -m benchmarks.http_routes

bench-faults: $(VENV)/.dev
	$(BIN)/python -m benchmarks.faults --write

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "Python's venv is missing; on Debian: apt-get install python3-venv"; exit 1; }
	@touch $@

$(VENV)/.run: $(VENV)/.made requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --requirement requirements.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --requirement requirements-dev.txt
	@touch $@
