# Two commands: `make demo` shows the main job, `make test` proves it. Both set everything up first.
PYTHON ?= python3
VENV ?= .venv
# `make demo CROSSBAR=no` leaves the crossbar extra (some 380 MB) out.
CROSSBAR ?= yes
BIN := $(VENV)/bin
EXTRAS = dev$(if $(filter yes,$(CROSSBAR)),$(comma)crossbar)
comma := ,
# Tests wait more than they compute: two processes halve the time, and each file stays in one of them.
PYTEST ?= $(BIN)/python -m pytest -n 2 --dist loadfile
# `make soak MINUTES=60` looks for faults that long, by each of three ways.
MINUTES ?= 10
STAMP := $(VENV)/.installed-$(CROSSBAR)

.PHONY: help setup demo test unit lint reference bench soak clean

help:
	@echo "make demo    set up, then watch a cluster of real routers come up, heal and stop"
	@echo "make test    set up, then run the whole suite"
	@echo "make unit    the fast tests alone"
	@echo "make lint    ruff and mypy"
	@echo "make bench   measure, against yardsticks taken in the same run"
	@echo "make soak    look for faults: simulation, kills and fuzzing for MINUTES (10) each, a flood for one"
	@echo "make reference   write docs/reference from the contract"
	@echo "make clean   remove the virtual environment and caches"

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "Python 3.11+ with venv is needed; on Debian: apt-get install python3-venv"; exit 1; }
	@echo "installing into $(VENV) (about two minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[$(EXTRAS)]"
	@touch $(STAMP)

setup: $(STAMP)

demo: setup
	@$(BIN)/python -m cli.demo

test: setup lint
	@$(PYTEST)

unit: setup
	@$(PYTEST) tests/unit

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: setup
	@$(BIN)/python -m tests.bench

soak: setup
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[soak]" || \
	  echo "atheris can't be installed here: the fuzzing will mutate blindly"
	@$(BIN)/python -m tests.soak --minutes $(MINUTES)

reference: setup
	@$(BIN)/python docs/generate.py --write
	@$(BIN)/python -m tests.faults.page --write

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
