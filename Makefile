# The project's verbs. `make predict` and `make test` need Python 3.11 or newer and nothing else.
PYTHON ?= python3
VENV := .venv
RUN ?= $(VENV)/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: predict test test-gpu check format paper measure measure-gpu sweep bench bench-gpu clean

predict: $(VENV)/installed-mpi
	@if [ -t 2 ]; then export FORCE_COLOR=1; fi; \
	$(VENV)/bin/mpiexec -n $$($(RUN) -c 'import os; print(min(2, os.cpu_count() or 1))') \
	    $(RUN) -m calibration --quick --if-missing || $(RUN) -m calibration --quick --if-missing
	$(RUN) -m sim.predict --nodes 64

# On at most four cores: each worker collects all tests anew, in the order in which they are to start.
test: $(VENV)/installed-test
	$(RUN) -m pytest --numprocesses logical --maxprocesses 4 --dist loadgroup --no-loadscope-reorder

# What only a GPU can be asked. The gpu extra, some gigabytes, is installed where there is a driver for
# it; where there is none every test is skipped, with the reason. RUN=python3 takes a Python that has
# all of it already, and installs nothing.
COMMA := ,
DRIVER := $(shell command -v nvidia-smi)
GPU_READY = $(if $(filter $(VENV)/%,$(RUN)),$(VENV)/installed-$(1)$(if $(DRIVER),$(COMMA)gpu))
test-gpu: $(call GPU_READY,test)
	@$(if $(DRIVER),,echo "no nvidia-smi: NVIDIA's driver is missing, so the gpu extra is not installed; GPU tests are skipped")
	$(RUN) -m pytest -m gpu -rs

check: $(VENV)/installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/installed-test
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# Figures, the report, and the README's tables, from the committed measurements.
paper: $(VENV)/installed-paper
	$(RUN) -m paper --readme README.md

# Measures this machine anew for the report; takes about half an hour and wants a quiet machine.
# Interrupted, it goes on where it was; make measure PARTS="trainer simulator" measures those.
DATA_DIR ?=
PARTS ?=
measure: $(VENV)/installed-bench
	PYTHONPATH=$(CURDIR) $(RUN) benchmarks/measure.py $(if $(DATA_DIR),--data-dir $(DATA_DIR)) \
	    $(foreach part,$(PARTS),--parts $(part))

# The classic figures on real letters, in about two minutes; interrupted, it goes on where it was.
SWEPT := build
sweep: $(VENV)/installed-mpi,plot
	mkdir -p $(SWEPT)
	$(RUN) -m exec.sweep --out $(SWEPT)/sweep-mpi.jsonl --transport mpi --ranks 1,2 --batch 16,64,256 \
	    --lr 0.25,0.5 --strategy data --repeats 3 --plot $(SWEPT)/sweep-mpi \
	    -- --data letters --epochs 3 $(if $(DATA_DIR),--data-dir $(DATA_DIR))
	$(RUN) -m exec.sweep --out $(SWEPT)/sweep-threads.jsonl --transport threads --ranks 1,2,4 \
	    --batch 64,256 --strategy data --repeats 3 --plot $(SWEPT)/sweep-threads \
	    -- --data letters --epochs 3 $(if $(DATA_DIR),--data-dir $(DATA_DIR))

# One command a table; make bench ROUNDS=2 is short.
ROUNDS ?=
bench: $(VENV)/installed-bench
	$(RUN) benchmarks/trainer.py $(if $(ROUNDS),--rounds $(ROUNDS) --conv-rounds $(ROUNDS) --two-rank-rounds $(ROUNDS))
	$(RUN) benchmarks/collectives.py $(ROUNDS:%=--rounds %)
	$(RUN) benchmarks/simulator.py $(ROUNDS:%=--rounds %)
	$(RUN) benchmarks/startup.py $(ROUNDS:%=--rounds %)

# PyTorch on the same GPU; make measure-gpu OUT=dir measures all there is, PARTS="bench-mlp check" some.
OUT ?= build/gpu
bench-gpu: $(call GPU_READY,test$(COMMA)bench)
	PYTHONPATH=$(CURDIR) $(RUN) benchmarks/gpu.py
measure-gpu: $(call GPU_READY,test$(COMMA)bench)
	PYTHONPATH=$(CURDIR) $(RUN) benchmarks/measure_gpu.py --out $(OUT) $(foreach part,$(PARTS),--parts $(part))

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-%: pyproject.toml | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --editable '.[$*]'
	@touch $@

clean:
	rm -rf $(VENV) build paper/build/*.pdf paper/build/*.json paper/build/*.typ paper/build/*.png
