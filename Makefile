# Two commands: `make demo` shows the main job, `make test` proves it. Both set everything up first.
PYTHON ?= python3
VENV ?= .venv
# `make demo CROSSBAR=no` leaves the crossbar extra (some 380 MB) out.
CROSSBAR ?= yes
BIN := $(VENV)/bin
EXTRAS = dev$(if $(filter yes,$(CROSSBAR)),$(comma)crossbar)
comma := ,
# Tests wait more than they compute, so two cores carry four processes; each file stays in one of them. A fifth
# (tests/conftest.py) waits for the simulation, which computes with what the others leave.
PYTEST ?= $(BIN)/python -m pytest -n 5 --dist loadfile --no-loadscope-reorder
# `make soak MINUTES=60 SEED=100000` looks for faults that long, by three ways at once; SEED is the first schedule's.
MINUTES ?= 10
SEED ?= 5001
# `make mutants COUNT=0` tries every fault, some thousands; else so many in each file, chosen by MUTANTS as the seed.
COUNT ?= 20
MUTANTS ?= 1
STAMP := $(VENV)/.installed-$(CROSSBAR)

# Where `make scale` puts aedes (npm), which the suite itself never asks for.
AEDES := $(abspath $(VENV))/aedes
# And `make test` clients in JavaScript, where there is npm.
FOREIGN := $(abspath $(VENV))/foreign
# Where `make asyncapi` puts the parser of AsyncAPI documents.
ASYNCAPI := $(abspath $(VENV))/asyncapi

# Where `make node-red` puts Node-RED.
NODERED := $(abspath $(VENV))/node-red

# Where `make home-assistant` puts Home Assistant, which needs a newer Python than ours.
HOUSE := $(abspath $(VENV))/home-assistant
HOUSE_PYTHON ?= python3.13

.PHONY: help setup demo test unit explore lint style reference bench soak mutants scale mesh foreign asyncapi node-red home-assistant site \
  pictures upgrade dist deb try-deb try-systemd image try-image clean

help:
	@echo "make demo    set up, then watch a cluster of real routers start, recover and stop; busbar-demo.png is its page"
	@echo "make test    set up, then run the whole suite"
	@echo "make unit    the fast tests only"
	@echo "make explore the properties with new examples, which \`make test\` does not draw"
	@echo "make lint    ruff and mypy; make style  ruff alone"
	@echo "make bench   measure, against yardsticks taken in the same run"
	@echo "make soak    search for faults: simulation, fuzzing and kills for MINUTES (10), then a flood"
	@echo "make mutants   make small faults in the files that decide, and count those that the unit tests notice"
	@echo "make scale   the contract and node failures on broker clusters (NATS, aedes with Redis); measure"
	@echo "make mesh    groups of nats-server as one router: matrix, faults, partition, latency, HAProxy; an hour"
	@echo "make foreign   the clients in JavaScript (npm: mqtt.js, Autobahn|JS) alone"
	@echo "make asyncapi  the AsyncAPI document through AsyncAPI's own parser (npm)"
	@echo "make node-red  the flow for Node-RED in a real Node-RED (npm), beside a real busbar up"
	@echo "make home-assistant   the discovery messages through Home Assistant's own schemas and templates"
	@echo "make site    build the documentation's site, build/site/html; refuses links that lead nowhere"
	@echo "make pictures   take the pictures of the page for the documentation (chromium); some minutes"
	@echo "make upgrade   every pair of the previous release and this one: the main job; some minutes"
	@echo "make dist    wheel and source distribution, as an index would take them"
	@echo "make deb     the Debian package (build-essential, debhelper, python3-venv)"
	@echo "make try-deb   install it in a fresh Debian, use it, purge it (root, debootstrap)"
	@echo "make try-systemd   boot a fresh Debian with it: units, kills, watchdog, a reboot, purge (root, systemd-container)"
	@echo "make image   the image for containers (podman, buildah or docker)"
	@echo "make try-image   use that image with podman: a realm, a node that joins, a killed container, a read-only one"
	@echo "make reference   write docs/reference and docs/man from the code"
	@echo "make clean   remove the virtual environment and caches"

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "Python 3.11+ with venv is needed; on Debian: apt-get install python3-venv"; exit 1; }
	@echo "installing into $(VENV) (about two minutes the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e ".[$(EXTRAS)]"
	@# By itself: crossbar pins an idna that is too old for it, and works with a later one (docs/decisions/0026).
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-warn-conflicts -e ".[web]"
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true  # pip would use one core alone
	@touch $(STAMP)

setup: $(STAMP)

demo: setup
	@$(BIN)/python -m busbar.cli.demo --picture busbar-demo.png

# Without npm, or its registry, the clients in JavaScript are skipped with that reason.
# mypy uses one core, so it runs beside the installation and the first tests.
test: style
	@$(BIN)/mypy & types=$$!; \
	  $(BIN)/python -m tests.foreign.install $(FOREIGN); \
	  BUSBAR_FOREIGN=$(FOREIGN) $(PYTEST); tests=$$?; \
	  wait $$types && exit $$tests

unit: setup
	@$(PYTEST) -n 2 tests/unit  # they compute, and wait for nothing

explore: setup
	@BUSBAR_EXAMPLES=explore $(PYTEST) -n 2 -m hypothesis

lint: style
	@$(BIN)/mypy

style: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

bench: setup
	@$(BIN)/python -m tests.bench

soak: setup
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[soak]" || \
	  echo "atheris can't be installed here: the fuzzing will mutate blindly"
	@$(BIN)/python -m tests.soak --minutes $(MINUTES) --seed $(SEED)

mutants: setup
	@nice -n 10 $(BIN)/python -m tests.mutants --count $(COUNT) --seed $(MUTANTS)

# What is not installed is skipped with its reason: nats-server, redis-server, node with npm.
scale: setup
	@mkdir -p $(AEDES) && cp tests/clusters/package.json $(AEDES)/
	@if command -v npm >/dev/null; then \
	  npm install --prefix $(AEDES) --no-package-lock --no-audit --no-fund --silent; \
	else echo "npm is not installed: aedes is left out"; fi
	@BUSBAR_AEDES=$(AEDES) BUSBAR_BROKERS=bridge,nats-server,nats,aedes $(BIN)/python -m pytest tests/contract
	@BUSBAR_AEDES=$(AEDES) BUSBAR_CLUSTERS=bridge,nats,aedes BUSBAR_REALMS_ON=aedes \
	  $(BIN)/python -m pytest tests/clusters
	@BUSBAR_AEDES=$(AEDES) $(BIN)/python -m tests.clusters

# What needs npm, haproxy or root is told and left out.
mesh: setup
	-@$(BIN)/python -m tests.foreign.install $(FOREIGN)
	@BUSBAR_FOREIGN=$(FOREIGN) $(BIN)/python -m tests.mesh matrix
	@for seed in 1 2 3; do $(BIN)/python -m tests.mesh faults --seed $$seed || exit 1; done
	@$(BIN)/python -m tests.mesh latency
	@$(BIN)/python -m tests.mesh again
	-@$(BIN)/python -m tests.mesh haproxy
	-@$(BIN)/python -m tests.mesh partition

foreign: setup
	@$(BIN)/python -m tests.foreign.install $(FOREIGN)
	@BUSBAR_FOREIGN=$(FOREIGN) $(BIN)/python -m pytest tests/foreign

asyncapi: setup
	@mkdir -p $(ASYNCAPI) && cp tests/asyncapi/package.json $(ASYNCAPI)/
	@npm install --prefix $(ASYNCAPI) --no-package-lock --no-audit --no-fund --silent --ignore-scripts
	@BUSBAR_ASYNCAPI=$(ASYNCAPI) $(BIN)/python -m pytest tests/asyncapi

node-red: setup
	@mkdir -p $(NODERED) && cp tests/nodered/package.json $(NODERED)/
	@npm install --prefix $(NODERED) --no-package-lock --no-audit --no-fund --silent --ignore-scripts
	@BUSBAR_NODE_RED=$(NODERED) $(BIN)/python -m pytest tests/nodered

home-assistant: setup
	@test -x $(HOUSE)/bin/python || $(HOUSE_PYTHON) -m venv $(HOUSE)
	@$(HOUSE)/bin/python -m pip install --quiet --disable-pip-version-check homeassistant "paho-mqtt<3"
	@BUSBAR_HOME_ASSISTANT=$(HOUSE)/bin/python $(BIN)/python -m pytest tests/homeassistant

site: setup
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	@$(BIN)/python docs/website.py

pictures: setup
	@$(BIN)/python -m tests.web.pictures docs/pictures

# Needs the commit of the previous release, which a shallow clone lacks.
upgrade: setup
	@$(BIN)/python -m tests.upgrade

reference: setup
	@$(BIN)/python docs/generate.py --write
	@$(BIN)/python docs/client_methods.py --write
	@$(BIN)/python -m tests.faults.page --write

dist: setup
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation --outdir dist . > /dev/null
	@$(BIN)/python -m twine check --strict dist/*

deb:
	@docs/packaging/deb.sh build/deb

try-deb: deb
	@docs/packaging/try-deb.sh build/deb/*.deb

try-systemd: deb
	@docs/packaging/try-systemd.sh build/deb/*.deb

# BASE names another Debian to start from.
image: dist
	@docs/packaging/image.sh build/image $(BASE)

# What podman itself needs on a machine: RUN='--ulimit nofile=1024:1024' GLOBAL='--runtime runc'.
try-image: setup
	@docs/packaging/try-image.sh

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist .src/*.egg-info *.egg-info
