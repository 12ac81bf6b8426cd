# `make demo` and `make test` do all their own set-up on a fresh machine: a virtual environment in
# .venv (or $(VENV)), renewed when the requirements change.
PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python
# As many tests at once as there are cores, each on one thread: half the time of one after the other.
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
# Whole files, in the order of tests/conftest.py: that with the most tests is not the longest.
PYTEST = OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
STAMP = $(VENV)/.installed-$(shell cat requirements*.txt pyproject.toml Makefile | cksum | cut -d' ' -f1)

.PHONY: demo test test-slow lint types docs gpu check clean

demo: $(STAMP)
	$(PY) demo/demo.py --input demo/images --vocabulary-file demo/vocabulary.txt

test: $(STAMP)
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-slow: $(STAMP)
	$(PYTEST) -m slow $(PYTEST_ARGS)

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(STAMP)
	$(VENV)/bin/mypy -p frozenseg

# The site of docs/ into output/site. The builder is no requirement of the rest.
docs: $(STAMP)
	$(PY) -m pip install --quiet --disable-pip-version-check zensical==0.0.73 mkdocstrings-python==2.0.11
	$(VENV)/bin/zensical build --strict

# All that a GPU is needed for, in at most 8 minutes; into logs/gpu/CARD.
gpu: $(STAMP)
	$(PY) -m frozenseg measure_gpu $(GPU_ARGS)

check: lint types test test-slow

$(STAMP): requirements.txt requirements-serve.txt requirements-dev.txt pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-dev.txt
	# lvis asks for opencv-python, which would overwrite opencv-python-headless; cityscapesScripts for
	# a dozen packages of its viewer.
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps lvis==0.5.3 \
		cityscapesScripts==2.3.0 pyquaternion==0.9.9
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	rm -f $(VENV)/.installed-*
	touch $@

clean:
	rm -rf $(VENV) output build *.egg-info
