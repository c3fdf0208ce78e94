# setup: .venv with everything · demo: a first answer, with the base alone · test · test-slow · test-oldest · test-newest · fuzz:
# hostile input · check: what CI runs · docs · bench · full-size · ablations · baselines · muse · clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
BASE_STAMP := $(VENV)/.base-done

.PHONY: setup demo test test-slow test-oldest test-newest fuzz check docs bench full-size ablations baselines muse clean

setup: $(STAMP)

# An interrupted setup leaves no stamp: the next one keeps what pip already installed, unless not even pip works.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("pixellm needs Python 3.11 or newer; choose one: make setup PYTHON=python3.12")'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[onnx,train,eval,muse,serve,mcp,ray,quant,docs,dev]'
	@touch $(BASE_STAMP) $@

# The base answers without torch; after `make setup` it is there already.
$(BASE_STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("pixellm needs Python 3.11 or newer; choose one: make demo PYTHON=python3.12")'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	@touch $@

demo: $(BASE_STAMP)
	@mkdir -p build
	$(BIN)/pixellm ask example:cat "Segment the cat." --out build/demo.png

# Files of tests side by side, one thread each; in order, since the longest come first (e2e). They wait for servers now and
# then, hence a process more than there are cores.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $$($(BIN)/python -c 'import os; print(min(os.cpu_count() + 1, 8))') --dist loadfile --no-loadscope-reorder

# Trainings and counts that take long, which CI leaves out.
test-slow: setup
	$(BIN)/pytest -m slow

# The oldest and the newest transformers that pyproject.toml allows, over everything else in .venv.
RANGE := $(shell sed -n 's/^ *"transformers\(.*\)",.*/\1/p' pyproject.toml)
test-oldest: VERSION = $(patsubst >=%,==%,$(firstword $(subst $(comma), ,$(RANGE))))
test-newest: VERSION = $(RANGE)
comma := ,
test-oldest test-newest: setup
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --upgrade --target build/$@ 'transformers$(VERSION)'
	PYTHONPATH=$(CURDIR)/build/$@ $(BIN)/pytest tests/invariants tests/unit/model tests/unit/inference tests/unit/backbones

# New hostile input for every parser of outside bytes, for SECONDS in all; CI tries a few fixed examples of each.
SECONDS := 600
fuzz: setup
	FUZZ_SECONDS=$(SECONDS) $(BIN)/pytest tests/fuzz

check: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@$(MAKE) --no-print-directory test

# The documentation as a site, in build/docs.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python benchmarks/masks.py
	$(BIN)/python benchmarks/quantised_layers.py
	$(BIN)/python -m benchmarks.training
	$(BIN)/python benchmarks/loading.py
	$(BIN)/python benchmarks/runtime.py
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python -m benchmarks.cost
	$(BIN)/python benchmarks/muse.py

# pixellm-7b with random weights at bf16, int8 and int4: 14 GB on disk, up to 17 GB of memory.
full-size: setup
	$(BIN)/python -m benchmarks.full_size --dir build/full-size

# 24 runs of some minutes each on two cores; those that are finished are not run again.
SEEDS := 0 1 2
ablations: setup
	for seed in $(SEEDS); do for recipe in recipes/nano*.yaml; do \
		$(BIN)/pixellm train $$recipe --seed $$seed --out runs/ablations/$$(basename $$recipe .yaml)-$$seed || exit 1; \
	done; done
	$(BIN)/pixellm compare runs/ablations --base nano --out docs/ablations.md

# LISA, LISA_rec, LISA_aug, a SEEM-style model and PixelLM, three seeds each: some two hours on two cores.
DATA := ../shared/data/coco_480
baselines: setup
	$(BIN)/python benchmarks/baselines.py --data $(DATA)

# MUSE-mini, and six trainings with and without it: about an hour and a half on two cores.
muse: setup
	$(BIN)/python benchmarks/muse_mini.py --data $(dir $(DATA))

# Everything made here but the environment; `rm -r .venv` removes that.
clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
