# Commands of segmentation_node. PYTHON=python3.12 chooses the interpreter of .venv, WORKERS=8 how
# many processes share the tests.
SHELL := /bin/bash
RUN := tools/run
PYTHON ?=
# One more than the cores of a small machine: the live graphs mostly wait.
WORKERS ?= 3
# What a user gives reaches the recipes as it is, through the environment: neither make nor the
# shell looks for commands in it.
GIVEN := PYTHON WORKERS INPUT MODEL TOPIC ARGS
$(foreach name,$(GIVEN),$(eval override $(name) := $$(value $(name))))
export $(GIVEN)
# The many processes that tests start would compile the package each anew.
unexport PYTHONDONTWRITEBYTECODE

# What has to keep to Python 3.6; bags, fleets and reports may be newer and are imported lazily.
PY36_SOURCES := setup.py segmentation_node launch test/core test/support/core
PY36_EXCEPT := segmentation_node/(evaluation/(bags|fleet|report)|importing)/.*\.py$$
# What has to keep to Humble's Python 3.10; two names are taken for Python 2's.
PY310_SOURCES := segmentation_node/evaluation segmentation_node/importing training tools benchmarks test

.DEFAULT_GOAL := help
.PHONY: help setup setup-openvino setup-train setup-fleet setup-test setup-bench demo lint types test-py36 checks test test-all bench clean

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1|/' | column -t -s '|'

setup:  ## .venv and the built packages: what the node needs, no torch
	@tools/setup

setup-openvino:  ## the same with OpenVINO, the faster run time on x86-64 CPUs
	@tools/setup openvino

setup-train:  ## the same with what training and the torch backend need
	@tools/setup train

setup-fleet:  ## the same with Ray and S3, to score a fleet's drives
	@tools/setup fleet

# With + its lines are seen as they come, though those of `checks` are held back.
setup-test:  ## the same with what the checks need (includes training)
	+@tools/setup test

setup-bench:  ## the same with what the benchmarks need
	@tools/setup bench

demo: setup  ## segment a clip through the node into out/demo; INPUT=bag, folder, video or camera; MODEL=name; TOPIC=of a bag
	@$(RUN) python -m segmentation_node.evaluation demo --output out/demo \
		--input="$$INPUT" --model="$$MODEL" --image-topic="$$TOPIC"

types: setup-test  ## mypy
	$(RUN) mypy

lint: setup-test  ## ruff, and vermin for Python 3.6 and 3.10
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) vermin -t=3.6- --eval-annotations --backport dataclasses --no-tips --violations \
		--exclude-regex '$(PY36_EXCEPT)' $(PY36_SOURCES)
	$(RUN) vermin -t=3.10- --eval-annotations --no-tips --violations \
		--exclude long --exclude file $(PY310_SOURCES)

test-py36:  ## test/core under Python 3.6, where one is found
	tools/py36

# Side by side: Python 3.6 has an environment of its own and needs nothing of .venv.
checks:
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target types lint test-py36

test: checks  ## all checks and the quick tests
	$(RUN) python -m pytest -n "$$WORKERS"

test-all: checks  ## all checks and all tests, the slow ones too
	$(RUN) python tools/verify.py

bench: setup-bench  ## run the benchmarks; ARGS="--list", ARGS="--quick", ARGS="NAME -- OPTIONS"
	@set -f; $(RUN) python -m benchmarks $$ARGS  # words between spaces, without globs

clean:  ## remove what setup, build and demo made
	rm -rf .venv .venv36 .venv.lock build install log out .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
