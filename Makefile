# make run     build in an environment of its own and show fastns at work on real namespaces
# make test    the same set-up, then the tests with few generated examples   make test-all   all of them, with all examples
# make bench   the benchmarks, into README.md and docs   make lint   the checks of the source
# make soak    everything at random for ten minutes: ARGS='--seconds N --seed N --resume FILE'
# make coverage  what of the proxy's C the tests reach
# make consumers  the tests of programs on pyroute2, with fastns and without, into docs; as root, needs PyPI and minutes
# make power   the filter of the proxy against what strace sees it call: ARGS=tests for the whole suite
# make clean   forget everything made here
#
# As root the work happens on this machine's namespaces, as an ordinary user in a user namespace entered for it.
# PYTHON=/path/to/python3 chooses the interpreter; ARGS='…' is handed to the command that is run.

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
SOURCES := setup.py pyproject.toml MANIFEST.in LICENSE \
	$(filter-out fastns/_core.c fastns/_codec.c, \
	$(foreach kind,py pyx pxi pxd pyi c h,$(wildcard fastns/*.$(kind) fastns/*/*.$(kind))))
# A worker is a process in namespaces of its own. On the machine's own they would meet: one then, this one.
WORKERS := $(if $(filter-out 0,$(FASTNS_TEST_HOST)),,-n auto --maxprocesses 4 --dist worksteal)
# A minute for the compiler, and nothing of the tree at hand: with all the others only.
REBUILT := --deselect tests/test_package.py::test_sdist_installs_into_an_empty_environment
ROOTLESS := $(if $(filter 0,$(shell id -u)),,$(BIN)/fastns rootless --)

.PHONY: run test test-all bench lint docs soak coverage power consumers clean
.DELETE_ON_ERROR:

run: $(VENV)/built
	$(BIN)/fastns demo $(ARGS)

# Said before anything is built.
$(if $(filter test,$(MAKECMDGOALS)),$(info about 5 minutes on two cores, 3 more where it is not built yet; make test-all: about 12))
$(if $(filter test-all,$(MAKECMDGOALS)),$(info about 12 minutes on two cores, 3 more where it is not built yet))

# What is generated, repeated or fuzzed for as long as one likes, for as long as one likes to wait.
test: export FASTNS_EXAMPLES ?= 5
test: export FASTNS_LEAK_CYCLES ?= 200
test: export FASTNS_STORMS ?= 2
test: export FASTNS_FUZZ_SECONDS ?= 1
test: export FASTNS_PATCHED ?= 2
test: $(VENV)/test
	$(ROOTLESS) $(BIN)/pytest $(WORKERS) $(REBUILT) $(ARGS)

test-all: $(VENV)/test
	$(ROOTLESS) $(BIN)/pytest $(WORKERS) $(ARGS)

bench: $(VENV)/bench $(VENV)/old
	mkdir -p .benchmarks
	FASTNS_BENCH_PYROUTE2_07=$(VENV)/pyroute2-0.7/bin/python $(ROOTLESS) $(BIN)/pytest benchmarks --benchmark-enable --benchmark-only --benchmark-quiet \
		--benchmark-json=.benchmarks/last.json $(ARGS)
	$(BIN)/python benchmarks/report.py .benchmarks/last.json $(if $(ARGS),,--write)

soak: $(VENV)/test
	$(ROOTLESS) $(BIN)/python tests/soak.py $(ARGS)

# In a copy: the modules of this build are not for use.
coverage: $(VENV)/test
	rm -rf build/coverage && mkdir -p build/coverage
	cp -r setup.py pyproject.toml README.md fastns tests build/coverage && rm -f build/coverage/fastns/*.so
	cd build/coverage && FASTNS_COVERAGE=1 $(abspath $(BIN))/python setup.py -q build_ext --inplace
	cd build/coverage && $(ROOTLESS:$(BIN)/%=$(abspath $(BIN))/%) $(abspath $(BIN))/python -m pytest -q \
		tests/relay tests/test_monitor.py
	cd build/coverage && $(ROOTLESS:$(BIN)/%=$(abspath $(BIN))/%) $(abspath $(BIN))/python \
		tests/fuzz/relaybuild.py build/temp*/fastns/relay

# The tests that reach all the filter lets through.
power: $(VENV)/test
	$(ROOTLESS) $(BIN)/python tests/relay/power -q --tb=no -p no:cacheprovider $(or $(ARGS),tests/relay/test_policy.py \
		tests/relay/test_open.py tests/relay/test_channel.py::test_pages_of_a_burst_are_given_back)

consumers: $(VENV)/test
	$(BIN)/python tests/consumers.py $(or $(ARGS),--write)

lint: $(VENV)/lint
	$(BIN)/ruff check fastns tests benchmarks setup.py
	$(BIN)/mypy
	$(BIN)/mypy tests/typing
	$(BIN)/pyright -p pyproject.toml
	for file in fastns/relay/*.c; do \
		$(CC) -std=gnu11 -O2 -fno-stack-protector -Wall -Wextra -Wconversion -Werror -c $$file -o /dev/null || exit 1; done

# A site in build/site. Needs nothing from elsewhere when it is looked at.
docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "build/site/index.html"

clean:
	rm -rf $(VENV) build dist *.egg-info .benchmarks .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f fastns/_core.c fastns/_codec.c fastns/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The first python3 that is new enough, can make an environment and has its C headers.
$(VENV)/python:
	@set -e; \
	for python in $(PYTHON) $(if $(PYTHON),,/usr/bin/python3 python3 python3.13 python3.12 python3.11 python3.10 python3.9); do \
		if "$$python" -c 'import sys, os, sysconfig, venv, ensurepip; \
			sys.exit(not (sys.version_info >= (3, 9) and os.path.exists(sysconfig.get_path("include") + "/Python.h")))' \
			>/dev/null 2>&1; \
		then found=$$python; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
		echo "no python3 (3.9 or newer) with venv and C headers found; Debian and Ubuntu:" >&2; \
		echo "  apt-get install python3-venv python3-dev gcc make iproute2 iputils-ping" >&2; exit 1; \
	fi; \
	for tool in $(or $(filter-out cc,$(CC)),gcc) ip; do \
		command -v $$tool >/dev/null || [ -x /sbin/$$tool ] || { echo "missing: $$tool; Debian and Ubuntu:" >&2; \
		echo "  apt-get install python3-venv python3-dev gcc make iproute2 iputils-ping" >&2; exit 1; }; \
	done; \
	"$$found" -m venv --clear $(VENV); touch $@

$(VENV)/built: $(VENV)/python $(SOURCES)
	@echo "building fastns in $(VENV) (about a minute)"
	rm -rf build
	$(PIP) install --force-reinstall --no-deps -e .
	$(PIP) install 'fastns[cli]'
	@touch $@

$(VENV)/test: $(VENV)/built
	$(PIP) install 'fastns[test]'
	@touch $@

$(VENV)/bench: $(VENV)/test
	$(PIP) install 'fastns[bench]'
	@touch $@

# The last release with the relay of pyroute2's own, for the comparison.
$(VENV)/old: $(VENV)/python
	$(BIN)/python -m venv --clear $(VENV)/pyroute2-0.7
	$(VENV)/pyroute2-0.7/bin/python -m pip --disable-pip-version-check -q install pyroute2==0.7.12
	@touch $@

$(VENV)/docs: $(VENV)/built
	$(PIP) install 'fastns[docs]'
	@touch $@

$(VENV)/lint: $(VENV)/test
	$(PIP) install 'fastns[lint]'
	@touch $@
