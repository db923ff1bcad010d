# Every target runs the set-up first, which takes a second once it is complete.
# STACK=openmmlab runs any of them on the other family, in a separate virtual environment.
STACK ?= onedl
VENV := $(if $(filter openmmlab,$(STACK)),.venv-openmmlab,.venv)
PYTHON_IN_VENV := $(VENV)/bin/python

# Two processes with one thread each: networks this small gain nothing from a second thread.
PYTEST := OMP_NUM_THREADS=1 $(PYTHON_IN_VENV) -m pytest -n 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-seg demo-cls demo-short test test-slow test-all lint doctor bench

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

setup: ## make .venv with the pinned stack (about two minutes the first time)
	@STACK=$(STACK) tools/setup.sh

demo: setup ## train and evaluate Mask R-CNN on generated images, into work_dirs/demo/
	$(PYTHON_IN_VENV) tools/demo.py

demo-seg: setup ## the same with Semantic FPN and label maps, into work_dirs/demo-seg/
	$(PYTHON_IN_VENV) tools/demo.py semantic_fpn

demo-cls: setup ## the same with a classifier, into work_dirs/demo-cls/
	$(PYTHON_IN_VENV) tools/demo.py classifier

demo-short: setup ## all demos for a few iterations, as a smoke test
	$(PYTHON_IN_VENV) tools/demo.py --short
	$(PYTHON_IN_VENV) tools/demo.py semantic_fpn --short
	$(PYTHON_IN_VENV) tools/demo.py classifier --short

test: lint ## lint, and all tests except the slow ones
	$(PYTEST)

test-slow: setup ## only the slow tests
	$(PYTEST) -m slow || [ $$? -eq 5 ] # 5: no test was selected

test-all: test test-slow ## lint, and all tests

doctor: setup ## check the installation
	$(PYTHON_IN_VENV) tools/doctor.py

lint: setup ## ruff's lint and format
	$(PYTHON_IN_VENV) -m ruff check .
	$(PYTHON_IN_VENV) -m ruff format --check .

bench: setup ## compare time and memory of CrossFormer-S with those of Swin-T
	$(PYTHON_IN_VENV) tools/benchmark.py s --against swin_t --mode inference train --size 512x640 --rounds 5
