# Two commands on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check install --constraint constraints.txt

.PHONY: demo install targets test test-core test-slow check faults bench bench-export docs dist clean
.DEFAULT_GOAL := demo

.venv/bin/python:
	@echo "== A virtual environment in .venv, by $$($(PYTHON) --version)"
	$(PYTHON) -m venv .venv

.venv/.required: pyproject.toml constraints.txt | .venv/bin/python
	@echo "== The package and what it requires, about 100 packages: PyTorch is the largest."
	$(PIP) --editable .
	touch $@

.venv/.installed: .venv/.required
	@echo "== Every feature, and the tools of the tests"
	$(PIP) --quiet --editable '.[all,dev]'
	touch $@

demo: .venv/.required  ## dense network and 14 pruned rounds on real handwritten digits
	@echo "== 15 trainings, about two minutes; then open ./report/report.html"
	$(BIN)/python jobs/digits_lr.py --report ./report

install: .venv/.required  ## every feature, for users
	$(PIP) --quiet --editable '.[all]'

# LiteRT's packages want other versions than constraints.txt: they see the packages of .venv behind their own.
.venv-litert/.installed: | .venv/.required
	@echo "== Runtimes, and LiteRT's packages in .venv-litert: about 1 GB"
	$(PIP) --quiet --editable '.[targets,ethos]'
	$(BIN)/python -m venv .venv-litert
	$(BIN)/python -c "import site; [place] = site.getsitepackages(); print(f'import site; site.addsitedir({place!r})')" \
		> "$$(.venv-litert/bin/python -c 'import site; print(site.getsitepackages()[0])')/of_the_project.pth"
	.venv-litert/bin/pip --disable-pip-version-check install --quiet --no-warn-conflicts \
		'litert-torch>=0.10,<0.11' 'ai-edge-quantizer>=0.10,<0.11' 'ai-edge-litert>=2.3,<3'
	npm install --silent --prefix .venv-litert '@litertjs/core@^2.5.3' || echo "== No npm: the target web stays out"
	touch $@

targets: .venv-litert/.installed  ## what `orchestrator targets` measures and estimates beside torch and the download

check: .venv/.installed  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check  ## everything that must hold, in 8 minutes on two cores; what runs where: tests/README.md
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup --no-loadscope-reorder

test-core: .venv/.installed  ## the same without Ray
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m "not ray and not slow and not bench and not faults"

test-slow: .venv/.installed  ## what takes minutes and rarely breaks, and every torchvision classifier in every format
	$(PIP) --quiet --editable '.[slow]'
	$(BIN)/python -m pytest -m slow --timeout 1800

faults: .venv/.installed  ## machines that die, leave and join: what happened, and what it cost
	$(BIN)/python -m pytest tests/distributed -m faults

bench: .venv/.installed  ## speed against the best opponent, in the same process run
	$(BIN)/python -m pytest tests/benchmarks -m bench -s

bench-export: .venv/.installed  ## size and speed of exported files: MobileNetV2 and ResNet-50
	$(BIN)/python -m pytest tests/benchmarks/test_export.py -m bench -s

docs: .venv/.required  ## the API reference, in ./api
	$(PIP) --quiet --editable '.[docs]'
	$(BIN)/python .ci/api.py api
	@echo "== open ./api/index.html"

dist: .venv/.required  ## wheel and sdist in ./dist, whose description links to the repository `origin`
	$(PIP) --quiet 'setuptools>=77'
	$(BIN)/python .ci/dist.py dist "$$(git remote get-url origin)"

clean:
	rm -rf .venv .venv-litert runs report api dist
