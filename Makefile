# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-core test-slow check faults bench bench-export clean
.DEFAULT_GOAL := demo

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[all]'
	touch $@

demo: .venv/.installed  ## dense network and 14 pruned rounds on real handwritten digits
	$(BIN)/python jobs/digits_lr.py --report ./report

check: .venv/.installed  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check  ## everything that must hold; two files at a time, the long ones of tests/distributed first
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

CORE := test_driver.py test_retraining.py test_search.py pruning/test_pru*.py pruning/test_selections.py \
	storage/test_checkpoint.py storage/test_ledger.py \
	$(addprefix training/test_,batches.py data.py lr.py masked_training.py models.py)
test-core: .venv/.installed  ## the algorithm without Ray: half a minute
	$(BIN)/python -m pytest --numprocesses 2 $(addprefix tests/,$(CORE))

test-slow: .venv/.installed  ## every torchvision classifier through every format, jobs on SeaweedFS: an hour
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[slow]'
	$(BIN)/python -m pytest -m slow --timeout 1800

faults: .venv/.installed  ## machines that die, leave and join: what happened, and what it cost
	$(BIN)/python -m pytest tests/distributed -m faults

bench: .venv/.installed  ## speed against the best opponent, in the same process run
	$(BIN)/python -m pytest tests/benchmarks -m bench -s

bench-export: .venv/.installed  ## size and speed of exported files: MobileNetV2 and ResNet-50
	$(BIN)/python -m pytest tests/benchmarks/test_export.py -m bench -s

clean:
	rm -rf .venv runs report
