# `make verify` and `make test` are all that a fresh clone needs: Python 3.11 or newer, and make.
PYTHON ?= python3
VENV := .venv
LOCK := $(shell cksum requirements.lock | tr ' ' '-' | cut -d- -f1,2)
READY := $(VENV)/.installed-$(LOCK)
IN_VENV := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"

.DEFAULT_GOAL := help
.PHONY: help install generate verify all test test-slow lint format lock bench-pipeline clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY) ## create .venv with the pinned dependencies

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	rm -f $(VENV)/.installed-*
	touch $@

generate: $(READY) ## render the benchmark scripts and the bundle around them
	$(IN_VENV) snakemake generate

verify: $(READY) ## render and verify every benchmark script
	$(IN_VENV) snakemake verify

all: $(READY) ## verify, run what this machine can run, summarise and plot
	$(IN_VENV) snakemake all

test: $(READY) ## the quick tests
	$(IN_VENV) python -m pytest -m "not slow"

test-slow: $(READY) ## the long tests: incremental builds, faults, a one-node Slurm where it is installed
	$(IN_VENV) python -m pytest -m slow

lint: $(READY) ## ruff, snakefmt, snakemake --lint
	$(IN_VENV) ruff check
	$(IN_VENV) ruff format --check
	$(IN_VENV) snakefmt --check Snakefile workflow/rules
	$(IN_VENV) snakemake --lint

format: $(READY) ## let ruff and snakefmt rewrite the sources
	$(IN_VENV) ruff check --fix
	$(IN_VENV) ruff format
	$(IN_VENV) snakefmt Snakefile workflow/rules

lock: ## resolve the dependencies of pyproject.toml into requirements.lock
	$(PYTHON) scripts/lock.py

bench-pipeline: $(READY) ## what the pipeline costs beside the work itself
	$(IN_VENV) python scripts/bench_pipeline.py

clean: ## remove everything generated but the environment and the measurements
	rm -rf .snakemake logs results/specs results/specs.json results/spec_origins.json results/model_steps.json results/verified results/config
