# make demo    train, serve, load and compare: ends with a table and a report
# make test    the whole test suite
# make protos  the messages of gRPC, from the .proto files
# make gpu-check  what works on a GPU, with figures, where there is one
# make mutants whether the tests would notice mistakes: 7,800 of them, about 40 minutes on two cores
.PHONY: demo test check protos mutants image gpu-check lock clean

# The first Python that is new enough, and not too new for the frameworks.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
READY := .venv/ready

demo: $(READY)
	$(BIN)/samedigit train numpy-sigmoid keras-deep
	$(BIN)/samedigit train torch-conv --threads 2
	$(BIN)/samedigit loadtest --duration 1 --protocol predict --protocol grpc
	$(BIN)/samedigit report
	@echo "Draw to them: $(BIN)/samedigit serve --open"

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

protos: $(READY)
	cd serving/protocols && ../../$(BIN)/python -m grpc_tools.protoc -I . --descriptor_set_out=descriptors.binpb *.proto

mutants: $(READY)
	$(BIN)/python tests/mutants.py

image: $(READY)
	docker/build-image
	PYTHONPATH=. $(BIN)/python docker/measure_image.py samedigit:onnx

# In an environment of its own, gigabytes of CUDA, which is made only once the driver sees a GPU.
GPU := build/gpu
gpu-check: $(READY)
	$(BIN)/python -m benchmarks.gpu_check --driver
	test -f $(GPU)/ready || { $(BIN)/uv venv --quiet --clear --python $(BIN)/python $(GPU) && \
		$(BIN)/uv pip sync --python $(GPU)/bin/python --require-hashes requirements/gpu.txt && touch $(GPU)/ready; }
	$(GPU)/bin/python -m benchmarks.gpu_check

# pip brings uv, and uv the rest: every package by its hash, in half a minute. Compiled now, since imports of several
# seconds would otherwise be paid by whoever comes first.
$(READY): requirements/uv.txt requirements/all.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Error: Samedigit needs Python 3.11, 3.12 or 3.13, and finds none. Set PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	$(BIN)/uv pip sync --python $(BIN)/python --require-hashes --compile-bytecode requirements/all.txt requirements/uv.txt
	$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --no-build-isolation -e .
	@touch $@

LOCK := uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet
lock:
	$(LOCK) pyproject.toml --extra onnx --extra torch --extra tensorflow --extra train --extra compare --extra tracing --extra dev -o requirements/all.txt
	$(LOCK) pyproject.toml --extra onnx --extra tracing -o requirements/onnx.txt
	$(LOCK) pyproject.toml --extra onnx --extra torch --extra tensorflow-cpu --extra tracing -o requirements/serve-all.txt
	$(LOCK) pyproject.toml --extra compare -o requirements/load.txt
	$(LOCK) pyproject.toml --extra torch --extra tensorflow --extra train --extra compare -o requirements/study.txt
	$(LOCK) pyproject.toml --extra gpu --extra torch --extra tracing -o requirements/gpu.txt

clean:
	rm -rf .venv results build mutants *.egg-info
