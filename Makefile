# Every target sets up what it needs in .venv, from the exact versions in constraints.txt.
PYTHON ?= python3
VENV ?= .venv
VENV_3_1 ?= .venv-3.1
BENCH_VENV ?= .venv-bench
INSTALL = -m pip install --quiet --disable-pip-version-check --constraint
PIP = $(VENV)/bin/python $(INSTALL) constraints.txt
PIP_3_1 = $(VENV_3_1)/bin/python $(INSTALL) constraints-airflow-3.1.txt
RUN = $(VENV)/bin/python

# A file of tests stays in one process, so that what it sets up for all of them is set up once.
SIDE_BY_SIDE = --numprocesses 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo airflow test test-airflow-3.1 test-all bench lint format clean

help: ## Show the targets
	@grep -E '^[a-z0-9.-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

demo: $(VENV)/.demo ## Embed real text, upsert it with Airflow into a local index, and search it
	$(RUN) dev/demo.py

airflow: $(VENV)/.demo ## Airflow's web UI with the example DAGs and a local index
	$(RUN) dev/airflow_ui.py

test: $(VENV)/.dev ## The tests
	$(RUN) -m pytest -m "not slow" $(SIDE_BY_SIDE)

# Not only those with Airflow: 3.1 also holds back what the storage and the local index are built on, and the rest is a minute.
test-airflow-3.1: $(VENV_3_1)/.test ## The tests on Airflow 3.1, the oldest that is supported
	$(VENV_3_1)/bin/python -m pytest -m "not slow or browser" $(SIDE_BY_SIDE)

test-all: test test-airflow-3.1 ## The tests, those that take longer, and those on Airflow 3.1
	$(RUN) -m pytest -m slow $(SIDE_BY_SIDE)

bench: $(BENCH_VENV)/.bench ## Speed and memory beside the Pinecone SDK and the official operator: half an hour
	$(BENCH_VENV)/bin/python -m tests.benchmarks $(BENCH)

lint: $(VENV)/.dev ## ruff and mypy --strict
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.dev ## Let ruff mend what it can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean: ## Remove the environments and all caches
	rm -rf $(VENV) $(VENV_3_1) $(BENCH_VENV) .hypothesis .mypy_cache .pytest_cache .ruff_cache dist

%/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 10) <= sys.version_info < (3, 14) else \
	"Python 3.10 to 3.13 is needed, and this is " + sys.version.split()[0] + ": make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $*

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing the package, Airflow and the demo's model into $(VENV): a minute or two, once."
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt tests/requirements-sdk.txt | $(VENV)/bin/python
	@echo "Installing the package with its test tools into $(VENV): two minutes or so, once."
	$(PIP) --editable '.[lint]'
	$(PIP) --no-deps --requirement tests/requirements-sdk.txt
	@touch $@ $(VENV)/.demo

$(VENV_3_1)/.test: pyproject.toml constraints-airflow-3.1.txt tests/requirements-sdk.txt | $(VENV_3_1)/bin/python
	@echo "Installing the package with Airflow 3.1 and its test tools into $(VENV_3_1): two minutes or so, once."
	$(PIP_3_1) --editable '.[test]'
	$(PIP_3_1) --no-deps --requirement tests/requirements-sdk.txt
	@touch $@

# The peers need an environment of their own: they exclude what the tests pin.
$(BENCH_VENV)/.bench: pyproject.toml constraints.txt tests/benchmarks/requirements.txt | $(BENCH_VENV)/bin/python
	$(BENCH_VENV)/bin/python $(INSTALL) constraints.txt --editable '.[s3]' --requirement tests/benchmarks/requirements.txt
	@touch $@
