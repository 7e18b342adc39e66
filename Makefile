# Needs make and Python 3.11 or newer, nothing else: no recipe calls any other program.
PYTHON ?= python3
REQUIRE ?=
SEEDS ?= 0:1000
COUNT ?= 100
ARGS ?=
EXTRAS ?=
# Kinds of providers with an SDK of their own: `make install EXTRAS="aws oci"`.
SDKS := aws nebius oci openstack kubernetes ssh vast
# One more than the two cores that the suite is made for: a quarter of the time tests wait for real processes.
WORKERS ?= 3
BIN := .venv/bin
COMPILE := CUSTOM_COMPILE_COMMAND="make lock" $(CURDIR)/$(BIN)/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host
export REQUIRE
# Whoever turned this on for the machine has every process that a test starts compile all of it anew.
export PYTHONDONTWRITEBYTECODE :=

define HELP
make install   prepare .venv from hash-pinned requirements; EXTRAS="aws oci" adds the SDKs of these providers
make run       start the service on 127.0.0.1:8080; without a sublet.toml, the demo
make test      run every test; REQUIRE=all makes missing real parts a failure, ARGS="..." goes to pytest
make check     formatting, lint, strict types, import rules, tests
make conformance  every provider and every forge against every check; ARGS="aws gitea" names kinds, REQUIRE=all lets none be skipped
make simulate  the simulation: SEEDS=0:1000; the last line is one JSON object
make chaos     real processes, killed at random: COUNT=100; the last line is one JSON object
make bench     speed, as one JSON object, and docs/performance.md
make format    put the code into shape
make docs      write the generated reference pages anew
make lock      pin the newest requirements, with hashes
endef

.PHONY: help install install-dev run test check lint conformance simulate chaos bench format docs lock

help:
	@$(info $(HELP)):

install:
	@$(PYTHON) requirements/install.py runtime $(EXTRAS)

install-dev:
	@$(PYTHON) requirements/install.py dev

run: install
	@$(BIN)/sublet up $(ARGS)

test: install-dev
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

check: lint test

lint: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

conformance: install-dev
	@$(BIN)/python -m tests.conformance $(ARGS)

simulate: install-dev
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) $(ARGS)

chaos: install-dev
	@$(BIN)/python -m tests.chaos --count $(COUNT) $(ARGS)

bench: install-dev
	@$(BIN)/python -m tests.bench $(ARGS)

format: install-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: install-dev
	$(BIN)/python docs/generate.py

lock: install-dev
	cd requirements && $(COMPILE) --upgrade --output-file runtime.txt runtime.in
	cd requirements && $(COMPILE) --upgrade --constraint runtime.txt --output-file dev.txt dev.in
	cd requirements && $(foreach sdk,$(SDKS),$(COMPILE) --constraint dev.txt --output-file extras/$(sdk).txt extras/$(sdk).in &&) true
