# Skerry. `make demo` shows the main job; `make test` runs every test. Both do all of their own set-up on a Debian machine with Python and root.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONPATH := api:operator:nodeagent:client:.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(CURDIR)/.cache/pycache
PACKAGES := busybox-static e2fsprogs erofs-utils iproute2 nftables
LANES ?= 3
E2E_PACKAGES := runc containernetworking-plugins buildah debootstrap
TEST_PACKAGES := apache2-utils buildah debootstrap docker-registry iputils-ping nmap skopeo strace tmux umoci
VM_PACKAGES := qemu-system-x86 debootstrap cpio

.PHONY: help demo test test-all test-vm check static format cluster bench clean packages test-packages vm-packages e2e-packages e2e

help: ## What can be done here
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.ready: requirements.lock pyproject.toml
	@echo "setting up $(VENV) ..."
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

packages:
	@missing=$$(for p in $(PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -n "$$missing" ]; then echo "installing" $$missing "..."; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi

test-packages:
	@missing=$$(for p in $(TEST_PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -n "$$missing" ]; then echo "installing" $$missing "..."; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi

e2e-packages:
	@missing=$$(for p in $(E2E_PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -n "$$missing" ]; then echo "installing" $$missing "..."; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi

vm-packages:
	@missing=$$(for p in $(VM_PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || echo $$p; done); \
	if [ -n "$$missing" ]; then echo "installing" $$missing "..."; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi

demo: $(VENV)/.ready packages ## Run a sandbox on this machine and show what it is (root)
	@$(BIN)/python -m tests.harness.demo

test: $(VENV)/.ready packages test-packages static ## Every test: unit, kernel, API server (root)
	@$(BIN)/python -m pytest -q -n $(LANES) --durations 15 tests/unit tests/kernel tests/apiserver tests/security

test-all: export SKERRY_TEST_PARTS := 1
test-all: test ## The same with every kill point: what `make test` takes a part of

test-vm: $(VENV)/.ready packages vm-packages ## The kernel tests on Debian's kernel 6.1 with cgroup v2, in QEMU
	@$(BIN)/python -m tests.harness.vm

check: static ## Lint, types, imports, unit tests but the thorough ones: seconds
	@$(BIN)/python -m pytest -q -n 2 --hypothesis-profile quick -m 'not thorough' tests/unit

static: $(VENV)/.ready
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: $(VENV)/.ready ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

e2e: $(VENV)/.ready packages e2e-packages ## A real one-node cluster on this machine, with our images and the chart in it (root)
	@$(BIN)/python -m pytest -x tests/e2e

cluster: $(VENV)/.ready packages ## A control plane, the operator and one agent in the foreground
	@$(BIN)/python -m tests.harness.cluster

bench: $(VENV)/.ready packages test-packages ## Ours beside every peer that is installed
	@$(BIN)/python -m bench

clean: ## Remove what was made here
	rm -rf $(VENV) .cache build dist bench/out .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
