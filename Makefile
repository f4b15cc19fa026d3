# make run     make .venv, install, fetch the embedded model, serve http://localhost:5000
# make demo    the same with simulated providers: no key, nothing leaves the machine
# make test    install what tests need and run them, several at a time (ARGS="-n 0 tests/test_plan.py": this module, one by one)
# make check   format, lint, types, import rules
# make bench   the benchmarks, which print figures and judge nothing
# make audit   known vulnerabilities in what is pinned, and the licences
# make upgrade the newest versions of everything, pinned anew; make pins: after a change of pyproject.toml alone
# make manifests  providers.yaml into the manifests for Kubernetes
# make licences   THIRD_PARTY.md, from what the installed packages say
# make bench-faults   every fault through both routers, measured and judged, into docs/faults.md (three minutes)
# make soak    the program for half an hour while everything around it breaks, judged (ARGS="--minutes 5")

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: run demo install model test check format audit pins upgrade licences manifests bench bench-faults soak clean

run: $(VENV)/.run model
	$(BIN)/python main.py $(ARGS)

demo: $(VENV)/.run model
	$(BIN)/python main.py --demo $(ARGS)

install: $(VENV)/.run

# The program runs without the weights: it then says so and asks the providers alone.
model: $(VENV)/.run
	@$(BIN)/python -m fallback.local install || echo "Going on without the embedded model."

test: $(VENV)/.dev model
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

audit: $(VENV)/.dev
	$(BIN)/python -m supply.audit

# For every platform and Python at once; a version that is pinned already stays where it can. (pip itself is the
# machine's matter.)
PIN := $(BIN)/uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 \
	--no-emit-package pip --custom-compile-command "make pins"

pins: $(VENV)/.dev
	$(PIN) $(NEWER) pyproject.toml --output-file requirements.txt > /dev/null
	$(PIN) $(NEWER) pyproject.toml --constraint requirements.txt --extra otlp \
		--output-file requirements-otlp.txt > /dev/null
	$(PIN) $(NEWER) pyproject.toml --constraint requirements.txt --constraint requirements-otlp.txt --extra otlp --group dev \
		--output-file requirements-dev.txt > /dev/null

upgrade:
	$(MAKE) pins NEWER=--upgrade
	$(MAKE) licences

licences: $(VENV)/.dev
	$(BIN)/python -m supply.licences

manifests: $(VENV)/.dev
	$(BIN)/python -m deploy.manifests

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.core
	$(BIN)/python -m benchmarks.usage_log
	$(BIN)/python -m benchmarks.http_routes
	$(BIN)/python -m benchmarks.steps

bench-faults: $(VENV)/.dev
	$(BIN)/python -m benchmarks.faults --write

soak: $(VENV)/.dev
	$(BIN)/python -m benchmarks.soak $(ARGS)

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "Python's venv is missing; on Debian: apt-get install python3-venv"; exit 1; }
	@touch $@

$(VENV)/.run: $(VENV)/.made requirements.txt
	@echo "Installing requirements.txt into $(VENV), which takes a minute or two ..."
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --requirement requirements.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.txt
	@echo "Installing requirements-dev.txt into $(VENV), which takes a minute or two ..."
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --requirement requirements-dev.txt
	@touch $@
