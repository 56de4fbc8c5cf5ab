# Set-up and delegation only; what each target does lives in engine/, harness/ and proofs/.
# `make help` lists the targets.

SHELL := /bin/bash
# A system Python, because the unit's user cannot read an interpreter under somebody's home.
PYTHON ?= $(firstword $(wildcard /usr/bin/python3) python3)
PREFIX ?= /opt/hybrid-engine
UNITDIR ?= /usr/lib/systemd/system
SYSUSERSDIR ?= /usr/lib/sysusers.d
DESTDIR ?=
FROM ?=
FLEET ?=
CHARTS ?=
PURGE ?=
WHOLE ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Proofs wait as much as they work.
JOBS ?= $(shell echo $$(( $$(nproc) * 2 )))
# A worker that has nothing left takes over what another has not begun, so that none is left alone with the slow ones.
PARALLEL := -n $(JOBS) --dist=worksteal
# Whoever watches sees what is fetched; a log does not need it.
PIP_QUIET := $(shell test -t 2 || echo --quiet)
APT_QUIET := $(shell test -t 2 && echo -q || echo -qq)
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.DEFAULT_GOAL := help
.PHONY: help proofs test sabotage mutants another canary nothing reference scale stress fleet-sim debian soak bench doctor \
  buglog lint format pure coverage docs pictures lock dist release install uninstall clean

# As wide as the terminal; a word is never cut.
help:  ## List the targets
	@awk -F ':.*## ' -v columns="$${COLUMNS:-$$(stty size <&2 2>/dev/null | cut -d' ' -f2)}" ' \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { \
	    line = sprintf("  make %-10s", $$1); number = split($$2, words, " "); \
	    for (at = 1; at <= number; at++) { \
	      if (length(line) + 1 + length(words[at]) > (columns ? columns : 80) && at > 1) { print line; line = sprintf("%17s", "") } \
	      line = line " " words[at] } \
	    print line }' $(MAKEFILE_LIST)

DISTRIBUTIONS := . distributions/hybrid-harness distributions/pytest-hybrid-proofs
LOCKED := -m pip install $(PIP_QUIET) --disable-pip-version-check --require-hashes
# What builds wheels lies beside the environment: in it, its .pth file would take time of each start of Python.
BACKEND := $(CURDIR)/.cache/backend

# Shells read what pip writes into the programs that it installs, and the paths here.
$(READY): $(DISTRIBUTIONS:%=%/pyproject.toml) requirements/develop.txt requirements/build.txt
	@case "$$(pwd -P)" in *['$$"`\']*) \
	  echo 'nothing works in a directory with one of $$ " ` \ in its path: move this checkout' >&2; exit 1;; esac
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { $(SUDO) apt-get update $(APT_QUIET) && $(SUDO) apt-get install -y $(APT_QUIET) python3-venv; }
	@echo "setting up $(VENV), which takes a minute or two and is done once" >&2
	@# What an earlier state of the checkout said of itself would be believed: Python looks for metadata here as well.
	@rm -rf *.egg-info
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(LOCKED) -r requirements/develop.txt
	@$(BIN)/python $(LOCKED) --upgrade --target "$(BACKEND)" -r requirements/build.txt
	@PYTHONPATH="$(BACKEND)" $(BIN)/python -m pip install $(PIP_QUIET) --disable-pip-version-check \
	  --no-deps --no-build-isolation $(DISTRIBUTIONS:%=-e %)
	@touch $@

# systemd-nspawn boots the private machine, D-Bus lets systemctl talk to it, ss lists the engine's sockets. Without them
# the proofs run all the same and say why they are unproven.
MACHINE_PACKAGES := systemd-container dbus iproute2 strace
.PHONY: machine-tools
machine-tools:
	@{ command -v systemd-nspawn && command -v dbus-daemon && command -v ss && command -v strace; } >/dev/null || \
	  { $(SUDO) apt-get update $(APT_QUIET) && \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y $(APT_QUIET) $(MACHINE_PACKAGES); } || \
	  echo "$(MACHINE_PACKAGES) could not be installed: see 'make doctor'" >&2

# The example of a service of somebody else's: a test installs it into a machine of its own, and nothing else does.
ARCHIVES := .cache/archives
FETCH = $(SUDO) apt-get install -y $(APT_QUIET) --download-only --no-install-recommends \
  -o Dir::Cache::Archives="$(CURDIR)/$(ARCHIVES)" redis-server
.PHONY: example-packages
example-packages:
	@test -e $(ARCHIVES)/.ready || { mkdir -p $(ARCHIVES)/partial && \
	    { $(FETCH) >/dev/null 2>&1 || { $(SUDO) apt-get update $(APT_QUIET) && $(FETCH); } } && touch $(ARCHIVES)/.ready; } || \
	  echo "redis-server could not be fetched: the example in docs/own-service.md will be unproven" >&2

# What a fleet is made of beside our own. Without them its proofs are unproven. Debian starts what it installs; proofs start
# their own, and whoever proves something wants no database at each boot. What was there before is somebody's, and is left.
SERVERS_MISSING = $(shell command -v nats-server >/dev/null || echo nats-server; \
  ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || echo postgresql; \
  command -v promtool >/dev/null || echo prometheus; command -v prometheus-alertmanager >/dev/null || echo prometheus-alertmanager)
.PHONY: fleet-tools
fleet-tools:  ## nats-server, PostgreSQL, Prometheus and Alertmanager, for the proofs of proofs/fleet
	@missing="$(SERVERS_MISSING)"; test -z "$$missing" || \
	  { $(SUDO) apt-get update $(APT_QUIET) && \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y $(APT_QUIET) --no-install-recommends $$missing && \
	    { $(SUDO) systemctl disable --quiet --now $$missing 2>/dev/null || true; }; } || \
	  echo "$$missing could not be installed: see 'make doctor'" >&2

# The dashboard's page is looked at in a real browser.
.PHONY: browser
browser:
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null || \
	  { $(SUDO) apt-get update $(APT_QUIET) && \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y $(APT_QUIET) --no-install-recommends chromium; } || \
	  echo "chromium could not be installed: see 'make doctor'" >&2

##@ Prove

# What is signed is the whole, and whoever has several computers wants it too.
CHOSEN := claim and not sabotage$(if $(WHOLE)$(SIGN_KEY)$(SHARD),, and not slow)
proofs: $(READY) machine-tools fleet-tools browser  ## Prove every guardrail against a real systemd, in a minute (WHOLE=1, ARGS='-k exit12', SIGN_KEY=FILE, SHARD=2/4)
	$(BIN)/pytest proofs $(PARALLEL) -m '$(CHOSEN)' $(if $(SIGN_KEY),--sign-key $(SIGN_KEY)) $(if $(SHARD),--shard $(SHARD)) $(ARGS)

test: $(READY) machine-tools example-packages fleet-tools browser  ## The proofs and every other test (ARGS='-x')
	$(BIN)/pytest proofs $(PARALLEL) -m 'not sabotage' $(if $(SHARD),--shard $(SHARD)) $(ARGS)

##@ Prove that proofs can fail

sabotage: $(READY) machine-tools fleet-tools browser  ## Break each guarded thing on purpose: its proof must turn red
	$(BIN)/pytest proofs/guardrails $(PARALLEL) -m sabotage $(ARGS)

SEED ?= 1
COUNT ?= 200
mutants: $(READY) machine-tools  ## Break a copy COUNT=200 times as SEED=1 draws: tests must turn red (ARGS='--only engine/trading/*')
	$(BIN)/python -m mutants --seed $(SEED) --count $(COUNT) $(ARGS)

another: $(READY) machine-tools  ## Break the second engine COUNT=200 times as SEED=1 draws: judges of any engine must turn red
	$(BIN)/python -m mutants --another --seed $(SEED) --count $(COUNT) $(ARGS)

canary: $(READY) machine-tools  ## A proof that must be refuted: fails unless it is
	@$(BIN)/pytest -q proofs/canary.py; test $$? -eq 1 && echo "the canary is refuted, as it must be"

# A program that says READY=1 and does nothing: proven in nothing, and refuted where the fault is the engine's.
NOTHING := '{checkout}/proofs/fixtures/nothing {config}'
nothing: $(READY) machine-tools  ## Every proof over a program that does nothing: fails unless none is proven (three minutes)
	-@$(BIN)/pytest proofs/guardrails $(PARALLEL) -q --tb=no --engine-cmd $(NOTHING) $(ARGS)
	@$(BIN)/python -c 'import json; run = json.load(open("reports/verdicts.json")); counts, judged = run["counts"], run["judged"]; \
	  assert counts["proven"] == 0 < counts["refuted"], f"what does nothing is proven: {counts}"; \
	  assert any(path.endswith("/nothing") for path in judged["files"]), f"it was not what ran: {judged}"'

# Without what would patch an engine's own modules.
REFERENCE := '/opt/hybrid-engine/bin/python -I {checkout}/proofs/fixtures/reference_engine.py --config {config}'
CLAIMED := B2 B3 C1 C2 C3 C4 D1 D3 D4 D5 E2 E3 E4 E5 E6 G0 G3 G4 I1 I3 I4 I5 I6 L1 L2 L3 M1 M2 M3 M4 N3 N6 N7 N8 N9 R2 R4 R5 \
  S1 S2 S3 S4 S5 S7 S9 S12 S13 S14 concurrency exit12 sampling stall
reference: $(READY) machine-tools  ## The engine in proofs/fixtures/reference_engine.py, by the clauses it claims to keep
	$(BIN)/pytest proofs/guardrails $(PARALLEL) --engine-cmd $(REFERENCE) --clauses '$(CLAIMED)' \
	  -k 'not stuck_part and not is_not_as_it_must_be' $(ARGS)

##@ Prove more

scale: $(READY) browser  ## A million trades in each of four samplings, twenty cuts and kills; a page about ten million ticks
	PROOFS_SCALE_TICKS=1000000 PROOFS_SCALE_KILLS=20 $(BIN)/pytest proofs/engine/test_scale.py $(ARGS)
	PROOFS_HISTORY_TICKS=10000000 $(BIN)/pytest proofs/harness/test_history_scale.py $(ARGS)

SECONDS ?= 7200
RUNS ?= 10
stress: $(READY) machine-tools browser  ## The whole suite RUNS=10 times, shuffled, every other run on a busy computer
	$(BIN)/python -m harness stress --runs $(RUNS) -- proofs $(PARALLEL) -m 'not sabotage' $(ARGS)

fleet-sim: $(READY) machine-tools fleet-tools  ## A fleet on four hosts of this computer, killed and cut off (ARGS='--kills 20 --cuts 4', as root)
	$(BIN)/python -m proofs.simulation $(ARGS)

VERSION ?= 13
debian: $(READY)  ## Both commands of the README on Debian VERSION=12, 13 or 14, made in .cache (as root; ARGS='make canary')
	@command -v debootstrap >/dev/null || \
	  { $(SUDO) apt-get update $(APT_QUIET) && $(SUDO) apt-get install -y $(APT_QUIET) debootstrap; }
	env -u ARGS -u MAKEFLAGS -u MAKELEVEL $(BIN)/python -m harness debian --release $(VERSION) $(or $(ARGS),sh -c 'make proofs && make test')

##@ Operate

soak: $(READY)  ## Watch the installed unit for SECONDS=7200, throttle and restart it (as root)
	$(BIN)/python -m harness soak --seconds $(SECONDS) $(ARGS)

bench: $(READY)  ## Measure against the raw floor, a naive pipeline and peers, as ratios (ARGS='--only T1')
	$(BIN)/python -m bench $(ARGS)

doctor: $(READY)  ## Say what this computer can prove, and what to install for the rest
	$(BIN)/python -m harness doctor

buglog: $(READY)  ## Render the last run's flight record and verdicts to reports/buglog/
	$(BIN)/python -m harness buglog

##@ Work on it

pure: $(READY)  ## What needs an interpreter, no machine and no other programs (PYTHON=python3.13 VENV=.cache/3.13)
	$(BIN)/pytest proofs $(PARALLEL) -m 'not machine and not programs and not sabotage' $(ARGS)

# Beside the environment, as what builds wheels.
coverage: $(READY)  ## Which lines the tests run that need no machine; fails below the floor in pyproject.toml
	@$(BIN)/python $(LOCKED) --upgrade --target .cache/coverage -r requirements/coverage.txt
	$(BIN)/python -c 'import sys; sys.path += [".cache/coverage"]; import pytest; sys.exit(pytest.main())' \
	  proofs $(PARALLEL) -m 'not machine and not sabotage' --cov --cov-report=term:skip-covered $(ARGS)

lint: $(READY)  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## Let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What makes releases, locks and the site, in an environment that nothing else waits for.
TOOLS := .cache/tools

$(TOOLS)/.ready: requirements/tools.txt
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python $(LOCKED) -r requirements/tools.txt
	@touch $@

docs: $(TOOLS)/.ready  ## The documents as a site, with an API reference, in .cache/site
	NO_MKDOCS_2_WARNING=1 $(TOOLS)/bin/mkdocs build --strict --quiet

pictures: $(READY) browser  ## Take the pictures in docs/pictures anew (ARGS='-k dashboard')
	$(BIN)/pytest proofs/house/test_pictures.py --take-pictures -q $(ARGS)

lock: $(TOOLS)/.ready  ## Choose the packages of requirements/ anew, with hashes (ARGS=develop.txt for one file)
	$(TOOLS)/bin/python distributions/lock.py $(ARGS)

##@ Give away and install

dist: $(TOOLS)/.ready  ## Wheels, sdists, bill of materials and checksums in dist/, tried without the checkout
	$(TOOLS)/bin/python distributions/dist.py

release: $(TOOLS)/.ready  ## Give what is under "Unreleased" in CHANGELOG.md a version (VERSION=0.2.0), then `make dist`
	$(TOOLS)/bin/python distributions/release.py $(VERSION)
	$(MAKE) dist

# The environment takes any path, also one with a space.
install uninstall: export DESTDIR := $(DESTDIR)
install uninstall: export PREFIX := $(PREFIX)
install uninstall: export UNITDIR := $(UNITDIR)
install uninstall: export SYSUSERSDIR := $(SYSUSERSDIR)
install: export FROM := $(FROM)
install: export FLEET := $(FLEET)
install: export CHARTS := $(CHARTS)
uninstall: export PURGE := $(PURGE)

install:  ## Install engine, units and example configuration (DESTDIR, PREFIX, UNITDIR, CHARTS=1, FLEET=1, FROM=.cache/stage/opt/hybrid-engine)
	$(PYTHON) systemd/installation.py install

uninstall:  ## Stop and remove what was installed; configuration and data stay without PURGE=1
	$(PYTHON) systemd/installation.py uninstall

clean:  ## Remove everything that was generated (venv, stage, reports)
	rm -rf $(VENV) .cache build dist reports *.egg-info distributions/*/build distributions/*/*.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
