# Every target sets up what it needs in .venv, from the exact versions in constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BENCH_VENV ?= .venv-bench
CLUSTER_VENV ?= .venv-cluster
# Tested besides the version in constraints.txt, each in an environment of its own, .venv-3.1, from constraints-airflow-3.1.txt.
OLDER_AIRFLOW = 3.1 3.2
INSTALL = -m pip install --quiet --disable-pip-version-check --constraint
PIP = $(VENV)/bin/python $(INSTALL) constraints.txt
RUN = $(VENV)/bin/python
SCHEMA = $(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor.

# Each test file runs in one process, so that its fixtures are set up once.
# Three processes keep two cores busy: many tests wait for a task.
SIDE_BY_SIDE = --numprocesses 3 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo airflow test $(OLDER_AIRFLOW:%=test-airflow-%) test-pythons test-all test-cluster bench docs dist lint format clean

help: ## Show the targets
	@grep -E '^[a-z0-9.-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: $(VENV)/.demo ## Embed real text, upsert it with Airflow into the emulator, and search it
	$(RUN) dev/demo.py

airflow: $(VENV)/.demo ## Start Airflow's web UI with the example DAGs and the emulator (PORT=8080)
	$(RUN) dev/airflow_ui.py

test: $(VENV)/.dev ## Run the tests
	$(RUN) -m pytest -m "not slow" $(SIDE_BY_SIDE)

test-airflow-3.1: ## Run the tests on Airflow 3.1, the oldest supported version
test-airflow-3.2: ## Run the tests on Airflow 3.2

# Also the tests without Airflow: 3.1 holds back the libraries that the storage and the emulator use, and they take a minute.
$(OLDER_AIRFLOW:%=test-airflow-%): test-airflow-%: .venv-%/.test
	.venv-$*/bin/python -m pytest -m "not slow or browser" $(SIDE_BY_SIDE)

test-pythons: $(VENV)/.dev ## Run the tests on the other Pythons from 3.10 to 3.13 that are installed here
	$(RUN) dev/test_pythons.py

# The environment of the benchmarks has the packages from which the page about migration leads away.
# The slow tests of one file are shared out, because one file has thousands of simulated schedules.
test-all: test test-airflow-3.1 $(BENCH_VENV)/.bench ## Run all tests: also the slow ones, and those on Airflow 3.1
	$(RUN) -m pytest -m slow --numprocesses 2 --dist worksteal

# In one process: its tests share a cluster.
test-cluster: $(CLUSTER_VENV)/.cluster ## Kill workers of a real cluster: needs Debian's postgresql and redis-server
	$(CLUSTER_VENV)/bin/python -m pytest -m cluster tests/cluster

bench: $(BENCH_VENV)/.bench ## Compare speed and memory with the Pinecone SDK, the official operator and LangChain (an hour)
	$(BENCH_VENV)/bin/python -m tests.benchmarks $(BENCH)

docs: $(VENV)/.dev ## Build the documentation site in build/docs; a warning or a broken link is an error
	$(RUN) -m sphinx --quiet --fail-on-warning --keep-going docs build/docs
	@echo "Open build/docs/index.html."

dist: $(VENV)/.dev ## Build sdist and wheel in dist/, twice, and use the wheel in a new environment
	$(RUN) dev/dist.py

lint: $(VENV)/.dev ## Run ruff, mypy --strict, codespell, and check the files of the forge
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/codespell
	$(SCHEMA)github-workflows .github/workflows/*.yml
	$(SCHEMA)dependabot .github/dependabot.yml
	$(SCHEMA)github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(SCHEMA)github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(VENV)/bin/pre-commit validate-config

format: $(VENV)/.dev ## Let ruff fix what it can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean: ## Remove the environments and all caches
	rm -rf $(VENV) $(OLDER_AIRFLOW:%=.venv-%) $(BENCH_VENV) $(CLUSTER_VENV) .venv-python3.* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist

%/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info < (3, 14) else \
	"Python 3.10 to 3.13 is required, but this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $*

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing the package, Airflow and the demo's model into $(VENV). This happens once and takes one or two minutes."
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt tests/requirements-sdk.txt | $(VENV)/bin/python
	@echo "Installing the package with its test tools into $(VENV). This happens once and takes about two minutes."
	$(PIP) --editable '.[lint]'
	$(PIP) --no-deps --requirement tests/requirements-sdk.txt
	@touch $@ $(VENV)/.demo

$(OLDER_AIRFLOW:%=.venv-%/.test): .venv-%/.test: pyproject.toml constraints-airflow-%.txt tests/requirements-sdk.txt | .venv-%/bin/python
	@echo "Installing the package with Airflow $* and its test tools into .venv-$*. This happens once and takes about two minutes."
	.venv-$*/bin/python $(INSTALL) constraints-airflow-$*.txt --editable '.[test]'
	.venv-$*/bin/python $(INSTALL) constraints-airflow-$*.txt --no-deps --requirement tests/requirements-sdk.txt
	@touch $@

# The other packages in the comparison need a separate environment: they exclude versions that the tests pin.
$(BENCH_VENV)/.bench: pyproject.toml constraints.txt tests/benchmarks/requirements.txt | $(BENCH_VENV)/bin/python
	$(BENCH_VENV)/bin/python $(INSTALL) constraints.txt --editable '.[grpc,reindex,s3]' --requirement tests/benchmarks/requirements.txt
	@touch $@

# Celery's dependencies stay out of the other environments, which test that the package works without them.
$(CLUSTER_VENV)/.cluster: pyproject.toml constraints.txt tests/cluster/requirements.txt | $(CLUSTER_VENV)/bin/python
	@echo "Installing the package, Airflow and Celery into $(CLUSTER_VENV). This happens once and takes about two minutes."
	$(CLUSTER_VENV)/bin/python $(INSTALL) constraints.txt --editable '.[emulator,reindex]' --requirement tests/cluster/requirements.txt
	@touch $@
