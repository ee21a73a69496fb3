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

test: check  ## everything that must hold, in 8 minutes on two cores; what runs where: tests/README.md
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup --no-loadscope-reorder

test-core: .venv/.installed  ## the same without Ray
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m "not ray and not slow and not bench and not faults"

test-slow: .venv/.installed  ## what takes minutes and rarely breaks, and every torchvision classifier in every format
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
