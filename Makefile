# Few verbs; every one installs what it needs first, and is quick the second time. `make -C <here> demo` works anywhere.
#
#   make demo         everything at work, from nothing to the result of a run
#   make test         the whole test suite; make test ARGS="-k name" for some of it
#   make clis         the real Claude Code and Codex that tests drive (640 MB from npm, once); `make test` does it too
#   make lint         ruff, mypy --strict, import contracts
#   make guarantees   the tests that carry a promise, and a line per promise
#   make bench        figures, with the floors beside them, into bench/latest.json
#   make agent-binary the agent as one executable that needs no Python: dist/, for this machine's system
#   make docs         the pages that are made from the code

ROOT := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
VENV := $(ROOT)/.venv
BIN := $(VENV)/bin
STATE := $(ROOT)/.state
PYTHON ?= python3
ARGS ?=
# One test process per core, where there is more than one.
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)

# What the full suite uses beyond the workspace; installed only where we are root and there is apt.
APT_PACKAGES := bubblewrap busybox-static chromium docker.io fonts-noto-cjk gcc iproute2 libc6-dev postgresql-15 redis-server procps

# Where the system has certificates of its own, uv trusts them as pip does: a company's private authority is among them.
ifneq ($(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem),)
export UV_SYSTEM_CERTS ?= 1
endif

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help install demo test clis lint bench guarantees agent-binary docs clean

help:
	@sed -n 's/^#   \(make .*\)/\1/p' $(ROOT)/Makefile

install: $(STATE)/installed

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or later is needed, and '$(PYTHON)' is not: install it, or say 'make PYTHON=/path/to/python3.11 …'" >&2; exit 1; }
	@echo "Making $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "Could not make a virtual environment: on Debian, 'apt-get install python3-venv' helps" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv || { \
	  echo "Could not install uv: is the package index reachable?" >&2; rm -rf $(VENV); exit 1; }

# Again only when what is installed has changed; so everything works offline once it is installed.
$(STATE)/installed: $(ROOT)/uv.lock $(ROOT)/pyproject.toml $(wildcard $(ROOT)/packages/*/pyproject.toml) | $(BIN)/uv
	@mkdir -p $(STATE)
	@echo "Installing what uv.lock says into $(VENV)"
	@cd $(ROOT) && UV_PROJECT_ENVIRONMENT=$(VENV) $(BIN)/uv sync --quiet --frozen --all-packages --inexact || { \
	  echo "Could not install the dependencies: is the package index reachable? Run 'make install' again" >&2; exit 1; }
	@touch $@

# Not being able to install these is said, not fatal: the tests that need them say so again.
$(STATE)/system:
	@mkdir -p $(STATE)
	@if [ "$$(id -u)" != 0 ]; then \
	  echo "Not root: what needs $(APT_PACKAGES) is skipped where it is missing"; \
	elif ! command -v apt-get >/dev/null; then \
	  echo "No apt-get here: what needs $(APT_PACKAGES) is skipped where it is missing"; \
	elif dpkg -s $(APT_PACKAGES) >/dev/null 2>&1; then \
	  touch $@; \
	else \
	  echo "Installing $(APT_PACKAGES)"; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  if { apt-get update -qq && apt-get install -y -qq --no-install-recommends $(APT_PACKAGES); } >$(STATE)/apt.log 2>&1; \
	  then touch $@; \
	  else echo "Could not install them (see $(STATE)/apt.log): what needs them is skipped where it is missing"; fi; \
	fi

demo: install
	@$(BIN)/vespid demo $(ARGS)

test: install $(STATE)/system clis
	@cd $(ROOT) && $(BIN)/pytest -n $(CORES) --dist loadgroup $(ARGS)

# Into a cache outside the checkout. Not having them is said, not fatal, unless VESPID_TEST_CLIS says `require`.
clis: install
	@cd $(ROOT) && $(BIN)/python -m tests.support.clis

guarantees: install $(STATE)/system
	@cd $(ROOT) && $(BIN)/pytest -n $(CORES) --dist loadgroup -m promise $(ARGS)

lint: install
	@cd $(ROOT) && $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy packages/*/src agent_binary && $(BIN)/lint-imports
	@# The agent and the client run on these too; what they lack is seen without them. Each has a cache of its own, or they would empty it.
	@cd $(ROOT) && for platform in win32 darwin; do \
	  $(BIN)/mypy --platform $$platform --cache-dir .mypy_cache/$$platform packages/vespid-agent/src packages/vespid-client/src packages/vespid-runtime/src; done

bench: install
	@cd $(ROOT) && $(BIN)/python -m tests.bench $(ARGS)

agent-binary: install $(STATE)/system
	@cd $(ROOT) && $(BIN)/python -m agent_binary

docs: install
	@cd $(ROOT) && $(BIN)/python -m vespid.settings.table > docs/settings.md

clean:
	@rm -rf $(STATE) $(ROOT)/.mypy_cache $(ROOT)/.ruff_cache $(ROOT)/.pytest_cache $(ROOT)/.import_linter_cache
