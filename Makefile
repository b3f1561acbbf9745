# make demo     a workflow of several hundred electrons on this machine (EXECUTOR=slurm: on the cluster)
# make test     everything: lint, and all tests against an installed wheel on a real mini Slurm
# make bench    the table of docs/performance.md; make bench -- --only chain --quick: one row, to see that it runs
# make lint     ruff, mypy, pyright, import contracts, the documentation without warnings
# make docs     the documentation as pages, in build/site
# make audit    known vulnerabilities of the locked dependencies
# make clean    remove what the above made here

SHELL := /bin/sh
EXECUTOR ?= local
PLOT ?= build/eos.png
SOURCES := $(shell find hpcflow executors templates -type f -not -name '*.pyc' -not -path '*/static/*') \
	$(shell find ui -type f -not -path '*/node_modules/*' -not -path '*/dist/*' 2>/dev/null)

# What follows `make bench --` is for the program, and no target.
ifeq (bench,$(firstword $(MAKECMDGOALS)))
BENCH := $(wordlist 2,$(words $(MAKECMDGOALS)),$(MAKECMDGOALS))
.PHONY: $(sort $(BENCH))
$(sort $(BENCH)): ;@:
MAKEFLAGS += --silent
endif

.PHONY: help demo test test-oldest bench lint docs audit clean

help:
	@sed -n 's/^# make /make /p' Makefile

demo: .venv/.installed
	@EXECUTOR='$(EXECUTOR)' PLOT='$(PLOT)' tools/demo

test:
	@tools/test

# The same unit and contract tests with the oldest dependency of every range in pyproject.toml.
test-oldest: build/dev/.installed
	@tools/test-oldest

bench:
	@tools/bench $(BENCH)

lint: build/dev/.installed
	@tools/lint build/dev/bin

docs: build/dev/.installed
	@NO_MKDOCS_2_WARNING=1 build/dev/bin/mkdocs build --strict
	@echo 'build/site/index.html'

audit: build/dev/.installed
	@tools/audit build/dev/bin

clean:
	rm -rf .venv build dist hpcflow/server/static ui/node_modules ui/dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

.venv/.installed: pyproject.toml hatch_build.py $(SOURCES)
	@tools/make-venv .venv '.[demo]'

build/dev/.installed: pyproject.toml examples/search/requirements.txt
	@tools/make-venv build/dev -e '.[dev]' -r examples/search/requirements.txt
