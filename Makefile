# `make` lists the targets. Everything runs in .venv, which the first target that needs it builds.

PYTHON ?= python3
UV ?= uv
ARGS ?=
# Most tests wait for something, so more of them run side by side than there are cores.
# In their order: those of whole fleets, which take longest, first.
JOBS ?= 3

PIP := .venv/bin/python -m pip --quiet --disable-pip-version-check
COMPILE := $(UV) pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --python-version 3.11

.DEFAULT_GOAL := help
.PHONY: help demo up down status test test-slow image-test check bench bench-full bench-peers chaos mutants clean distclean reference requirements moved

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

demo: .venv/.run-stamp ## start a fleet with its own servers, load a sample, show the result
	@.venv/bin/bargeline demo $(ARGS)

up: .venv/.run-stamp ## start the fleet; REDIS_URL and DATABASE_URL replace the embedded servers
	@.venv/bin/bargeline up $(ARGS)

down: .venv/.run-stamp ## drain and stop the fleet; the data stays
	@.venv/bin/bargeline down $(ARGS)

status: .venv/.run-stamp ## show the processes of the fleet
	@.venv/bin/bargeline status $(ARGS)

test: .venv/.dev-stamp ## run the tests on real servers, e.g. make test ARGS="tests/unit -x"
	@.venv/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: .venv/.dev-stamp ## run the corners of the fleet that `make test` leaves out (some minutes)
	@.venv/bin/python -m pytest -m slow -n $(JOBS) $(ARGS)

check: .venv/.dev-stamp ## check format, lint, types and imports
	.venv/bin/ruff format --check --quiet .
	.venv/bin/ruff check --quiet .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo

image-test: .venv/.dev-stamp ## build the image and run a fleet of it (root; Debian packages of tests/apt-image.txt; about 3 minutes)
	@.venv/bin/python -m pytest -m image $(ARGS)

bench: .venv/.dev-stamp ## measure this fleet against the floor, the naive loop and its targets (under 10 minutes)
	@.venv/bin/python -m bench $(ARGS)

bench-full: .venv/.dev-stamp ## the same, and growth: events, table, workers, a long stop (20 to 40 minutes, 20 GB of disk)
	@.venv/bin/python -m bench --full $(ARGS)

bench-peers: .venv/.dev-stamp .venv-peers/.stamp ## measure this fleet beside Python libraries, in .venv-peers (about 10 minutes)
	@.venv/bin/python -m bench.peers $(ARGS)

chaos: .venv/.dev-stamp ## strike a fleet under load by a seeded schedule, e.g. make chaos SEED=1 (about 4 minutes)
	@.venv/bin/python -m tests.faults $(if $(SEED),--seed $(SEED)) $(ARGS)

mutants: .venv/.dev-stamp ## break each promise of the code in turn, and see that the fault kit notices (about 10 minutes)
	@.venv/bin/python -m pytest -m mutants $(ARGS)

clean: ## stop the fleet, remove its data (var/), results and caches
	@if [ -d var ] && [ -x .venv/bin/bargeline ]; then BARGELINE_VAR="$(CURDIR)/var" .venv/bin/bargeline down --delete-data; fi
	@rm -rf var bench/results build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -not -path './.venv*/*' -prune -exec rm -rf {} +

distclean: clean ## the same, and remove .venv, .venv-peers and what was compiled
	@rm -rf .venv .venv-peers workers/*/_*.so

reference: .venv/.dev-stamp ## write the generated pages, dashboards, alerts and supervisord files anew
	@.venv/bin/python -m bargeline.reference docs
	@.venv/bin/python -m bargeline.fleet.host deploy/supervisor
	@.venv/bin/python -m deploy.grafana.build
	@.venv/bin/python -m deploy.prometheus.render

requirements: ## pin the requirements anew (needs uv)
	$(COMPILE) --upgrade pyproject.toml --extra embedded --output-file requirements/run.txt
	$(COMPILE) --upgrade pyproject.toml --constraints requirements/run.txt --output-file requirements/image.txt
	$(COMPILE) --upgrade pyproject.toml --extra embedded --extra dev --constraints requirements/run.txt --output-file requirements/dev.txt
	$(COMPILE) --upgrade --group build --constraints requirements/dev.txt --output-file requirements/build.txt
	$(COMPILE) --upgrade --group peers --constraints requirements/dev.txt --output-file requirements/peers.txt

# The scripts in .venv name its path: one that came along with a moved or copied checkout is made anew.
moved := $(shell [ ! -e .venv/.path ] || [ "$$(cat .venv/.path)" = "$(CURDIR)" ] || echo moved)

.venv/.run-stamp: pyproject.toml hatch_build.py $(wildcard shared/c/* workers/*/c/*) requirements/run.txt requirements/build.txt $(moved)
	@command -v "$(PYTHON)" > /dev/null || \
	  { echo "error: no $(PYTHON) found; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$("$(PYTHON)" --version) is too old; name a Python of 3.11 or newer: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2> /dev/null || \
	  { echo "error: $(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@{ [ -z "$(moved)" ] && .venv/bin/python -m pip --version > /dev/null 2>&1; } || \
	  { echo "Creating .venv with $$("$(PYTHON)" --version)"; "$(PYTHON)" -m venv --clear .venv; }
	@echo "$(CURDIR)" > .venv/.path
	@echo "Installing the pinned requirements into .venv (once)"
	@$(PIP) install --require-hashes -r requirements/run.txt -r requirements/build.txt
	@$(PIP) install --no-index --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.dev-stamp: .venv/.run-stamp requirements/dev.txt
	@echo "Installing the development tools into .venv (once)"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

.venv-peers/.stamp: requirements/peers.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info >= (3, 13))' || \
	  { echo "error: Bytewax has no wheels for $$("$(PYTHON)" --version); name another: make bench-peers PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing the peers into .venv-peers (once)"
	@"$(PYTHON)" -m venv --clear .venv-peers
	@.venv-peers/bin/python -m pip --quiet --disable-pip-version-check install --require-hashes -r requirements/peers.txt
	@touch $@

moved:
