# `make demo` and `make test` do all set-up on first use. They need Python 3.10 to 3.14 with its
# headers, a C++ compiler, make, and the network the first time; PYTHON=... names an interpreter.

UV_VERSION := 0.13.9
PYTHONS := $(PYTHON) python3.14 python3.13 python3.12 python3.11 python3.10 python3
# The stack: where its environment is, and its pins. `make test-originals` has another one.
VENV := .venv
PINS := requirements.txt
PY := $(VENV)/bin/python
LITERT := .venv-litert
HEADER := $(VENV)/header
NEW := $(VENV)/wheels# where mmcv is compiled; two clones do not share it
# Contents, not dates: a checkout that changes nothing sets nothing up. And the place, because
# scripts in the environment hold it.
KEY := $(shell { pwd; cat Makefile pyproject.toml $(PINS); } | cksum | cut -d' ' -f1)
READY := $(VENV)/ready-$(KEY)

export UV_PYTHON_DOWNLOADS := never
unexport PYTHONPATH PYTHONHOME UV_SYSTEM_PYTHON
# Else every process compiles torch and OpenMMLab anew, for 5 to 30 seconds.
unexport PYTHONDONTWRITEBYTECODE

# mmcv is compiled against the torch that is installed, and kept under what it was compiled for.
# uv's own cache would do where the registry sends caching headers; not every mirror does.
MMCV := $(shell grep -E '^(onedl-)?mmcv==' $(PINS))
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/care_mm
build_key := import os, sys, torch; \
	cuda = torch.cuda.is_available() or os.environ.get("FORCE_CUDA") == "1"; \
	print("$(subst ==,-,$(MMCV))-py%d%d" % sys.version_info[:2], \
	"torch" + torch.__version__, "cuda" if cuda else "cpu", sep="-")
# mmcv asks for C++17. torch's headers need the standard that torch itself was compiled with.
standard := import re, torch; \
	print("-std=c++" + re.search(r"C\+\+ Version: 20(\d\d)", torch.__config__.show())[1])

comma := ,
fail = { echo "set-up: $(1)" >&2; exit 1; }
in_range := import sys; (3, 10) <= sys.version_info[:2] <= (3, 14) or sys.exit(1)
# They are run, not looked up: a version manager's shim may be there and not work.
BASE = $(or $(shell for p in $(PYTHONS); do \
	$$p -c '$(in_range); print(sys.executable)' 2>/dev/null && break; done),$(error \
	set-up: none of "$(strip $(PYTHONS))" is Python 3.10 to 3.14: install one, or name it with PYTHON=))
# The uv on the PATH if it is as new as ours.
UV := $(shell v=$$(uv --version 2>/dev/null | cut -d' ' -f2); \
	printf '%s\n' $(UV_VERSION) "$$v" | sort -CV && echo uv || echo .uv/$(UV_VERSION)/bin/uv)

# setuptools 77 builds care_mm; the originals need an older one, so that it comes from the network.
ISOLATION = $(if $(filter requirements.txt,$(PINS)),--no-build-isolation)

RUN := work_dirs/demo-$(shell date +%Y%m%d-%H%M%S)

.PHONY: help setup setup-litert demo demo-seg demo-cls test test-long test-originals
.PHONY: requirements clean-env
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 24

setup: $(READY) ## make or refresh the environment in .venv; the targets below do it by themselves

setup-litert: $(filter .uv/%,$(UV)) ## make the environment that writes LiteRT files, in .venv-litert
	@$(LITERT)/bin/python -c '$(in_range)' 2>/dev/null || \
		$(UV) venv --quiet --clear --python '$(BASE)' $(LITERT)
	@$(UV) pip sync --python $(LITERT) requirements-litert.txt || \
		$(call fail,uv could not install requirements-litert.txt: no network or no disk space?)

demo: $(READY) ## train Mask R-CNN with CARE-S0 on the embedded data set, in minutes on two CPU cores
	$(PY) tools/train.py configs/shapes/maskrcnn_care_s0_shapes.py --work-dir $(RUN)

demo-seg: $(READY) ## the same for Semantic FPN
	$(PY) tools/train.py configs/shapes/semfpn_care_s0_shapes.py --work-dir $(RUN)

demo-cls: $(READY) ## the same for the classifier: a small teacher, then CARE-S0 learns from it
	$(PY) tools/train.py configs/shapes/teacher_shapes.py --work-dir $(RUN)/teacher
	$(PY) tools/train.py configs/shapes/care_s0_shapes.py --work-dir $(RUN)/student \
		--cfg-options model.teacher_checkpoint="$$(cat $(RUN)/teacher/last_checkpoint)"

test: $(READY) ## lint, check the format, and run the tests
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m codespell_lib
	$(VENV)/bin/lint-imports
	$(PY) -m pytest -n auto --dist loadfile

test-long: $(READY) ## the tests that take minutes to hours
	$(PY) -m pytest -m long

test-originals: ## test with the original OpenMMLab packages and torch 2.1, in .venv-originals
	@$(MAKE) --no-print-directory setup VENV=.venv-originals PINS=requirements-originals.txt \
		PYTHONS='$(PYTHON) python3.11 python3.10'
	.venv-originals/bin/python tools/check_env.py
	.venv-originals/bin/python -m pytest -n auto --dist loadfile --ignore tests/export

$(READY): $(filter .uv/%,$(UV))
	@echo "set-up: $(BASE), $(UV)"; rm -f $(VENV)/ready-*
	@$${CXX:-c++} --version >/dev/null || $(call fail,mmcv's operators need a C++ compiler: \
		install g++ or clang$(comma) or name one with CXX=)
	@test -f "$$('$(BASE)' -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" || \
		$(call fail,mmcv's operators need Python's headers: install python3-dev for $(BASE))
	@$(PY) -c '$(in_range)' 2>/dev/null || $(UV) venv --quiet --clear --python '$(BASE)' $(VENV)
	@echo "set-up: installing the packages (about 3 GB the first time)"
	@grep -v '^$(MMCV)' $(PINS) | $(UV) pip sync --python $(VENV) - || \
		$(call fail,uv could not install $(PINS): no network or no disk space?)
	@key=$$($(PY) -c '$(build_key)') && wheels="$(CACHE)/$$key" && { test -d "$$wheels" || { \
		echo "set-up: compiling mmcv's operators once: about 3 minutes on two idle cores"; \
		rm -rf $(NEW) $(HEADER); mkdir $(HEADER); std=$$($(PY) -c '$(standard)') && \
		PATH="$(CURDIR)/$(VENV)/bin:$(CURDIR)/tools:$$PATH" NVCC_APPEND_FLAGS="$$std" \
			MMCV_CXX="$${CXX:-c++}" MMCV_CXXFLAGS="-g0 $$std" MMCV_HEADER='$(CURDIR)/$(HEADER)' \
			CXX=mmcv_cxx.sh $(PY) -m pip wheel --quiet --no-deps \
			--no-build-isolation --no-cache-dir --wheel-dir $(NEW) $(MMCV) && \
		$(PY) -m zipfile --list $(NEW)/*.whl | grep mmcv/_ext >/dev/null && \
		mkdir -p "$(CACHE)" && mv $(NEW) "$$wheels" && rm -r $(HEADER); }; } && \
	$(UV) pip install --python $(VENV) --no-deps --offline "$$wheels"/*.whl || \
		$(call fail,mmcv did not compile; docs/install.md has the usual reasons)
	@$(UV) pip install --python $(VENV) --no-deps $(ISOLATION) --editable . || \
		$(call fail,care_mm itself could not be installed)
	@$(PY) tools/check_env.py --quick
	@touch $@

.uv/%/bin/uv:
	@echo "set-up: fetching uv $*"
	@rm -rf .uv; '$(BASE)' -m venv .uv/$* && .uv/$*/bin/pip install --quiet uv==$* || \
		{ rm -rf .uv; '$(BASE)' -m pip install --quiet --target .uv/$* uv==$*; } || \
		$(call fail,could not fetch uv: no network$(comma) or Python is without both venv and pip)

compile = $(UV) pip compile --quiet $(1) --universal --python-version 3.10 --no-annotate \
	--no-emit-package opencv-python --custom-compile-command "make requirements" --output-file
requirements: $(filter .uv/%,$(UV)) ## pin the closures of pyproject.toml in requirements*.txt
	$(call compile,pyproject.toml --all-extras) requirements.txt
	$(call compile,--group originals) requirements-originals.txt
	$(call compile,--group litert) requirements-litert.txt

clean-env: ## remove the environments and .uv; mmcv's compiled operators stay in ~/.cache/care_mm
	rm -rf .venv .venv-originals $(LITERT) .uv
