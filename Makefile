# Everything that a user or a developer runs. `make help` lists it.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA ?=
BUNDLE ?=
MINUTES ?=
DEMO_OUT ?= $(if $(DATA),demo-real,demo)$(if $(BUNDLE),-$(firstword $(subst _, ,$(BUNDLE))))
REQUIRE_JUDGES ?= 0
# Test files are dealt out to processes of one thread each; PYTEST_ARGS="-n 0" runs them one after the other.
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist loadfile
DEBIAN_JUDGES := plastimatch orthanc orthanc-dicomweb chromium

.DEFAULT_GOAL := help
.PHONY: help venv demo test judges bench lint format clean

help:  ## this list
	@echo "usage: make TARGET"
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-8s%s\n", $$1, $$2}' Makefile

venv: $(STAMP)  ## install into .venv what setup.cfg asks for, in the versions of constraints.txt

demo: $(STAMP)  ## the whole way once, on phantoms, or on real patients with DATA=open-kbp/provided-data; BUNDLE=... for another
	$(BIN)/mtl-med demo --out $(DEMO_OUT) $(if $(BUNDLE),--bundle $(BUNDLE)) $(if $(DATA),--data "$(DATA)") $(if $(MINUTES),--minutes $(MINUTES))

test: $(STAMP)  ## all tests; REQUIRE_JUDGES=1 turns a missing judge or missing data from a skip into a failure
	OMP_NUM_THREADS=1 REQUIRE_JUDGES=$(REQUIRE_JUDGES) $(BIN)/python -m pytest $(PYTEST_ARGS)

judges: $(STAMP)  ## other implementations that some tests compare with, where pip alone would ask for too much
	$(BIN)/python -m pip install --no-deps LibMTL==1.1.5 efficientnet_lite_pytorch==0.1.0 ipyniivue==2.4.4
	@if command -v apt-get >/dev/null; then \
	  sudo=$$(test "$$(id -u)" = 0 || echo "sudo -n"); export DEBIAN_FRONTEND=noninteractive; \
	  { $$sudo apt-get install -y -qq $(DEBIAN_JUDGES) \
	    || { $$sudo apt-get update -qq && $$sudo apt-get install -y -qq $(DEBIAN_JUDGES); }; } >/dev/null; \
	fi || echo "Install by hand: sudo apt-get install $(DEBIAN_JUDGES)"

bench: $(STAMP)  ## step times and memory, loader, preparation, DICOM (plastimatch, damaged files): ratios of one run
	$(BIN)/python -m tests.benchmarks
	$(BIN)/python -m tests.benchmarks.methods
	$(BIN)/python -m tests.benchmarks.dicom
	$(BIN)/python -m tests.benchmarks.mutations

lint: $(STAMP)  ## ruff (lint and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy mtl_med

format: $(STAMP)  ## let ruff mend and format what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove .venv, caches, builds and the demo's output
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache demo demo-*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Installed again only when what it depends on has changed. The version of pip that a distribution ships may be too old
# for editable installs from setup.cfg, so pip comes first.
$(STAMP): setup.cfg setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "mtl_med needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
	  echo "Install it (sudo apt-get install python3 python3-venv) or name another: make $(MAKECMDGOALS) PYTHON=python3.12"; \
	  exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "Python's venv module is missing. Install it with: sudo apt-get install python3-venv"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[test,grad,dicom,scale,pretrained,gamma]'
	@touch $(STAMP)
