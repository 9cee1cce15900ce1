"""What of the image can be told without building it: locks, rooms, staged models, and what build-image asks an engine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest
from conftest import PROJECT, python

from digits.contract import BACKENDS, EXPORTED, Backend
from digits.store import served_models
from serving.start import serve_command

STORED: Final[dict[str, tuple[Backend, ...]]] = {  # by target
    "onnx": ("numpy", "onnx"),
    "all": BACKENDS,
    "gpu": ("torch", "onnx"),
}

OTHER_BUILDS: Final = {"onnxruntime-gpu": "onnxruntime", "tensorflow-cpu": "tensorflow"}  # of one package


def pins(lock: str) -> dict[str, set[str]]:
    """Package -> pinned versions; a package may have one per Python."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", (PROJECT / "requirements" / lock).read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


@pytest.mark.parametrize("lock", ["onnx.txt", "serve-all.txt", "gpu.txt", "load.txt", "study.txt"])
def test_locks_have_the_versions_that_are_tested(lock: str) -> None:
    tested, served = pins("all.txt"), pins(lock)
    for name in [name for name in served if name in OTHER_BUILDS]:
        served.setdefault(OTHER_BUILDS[name], set()).update(served.pop(name))
    served.pop("nvidia-curand", None)  # onnxruntime's on a GPU alone
    assert {name: tested.get(name) for name in served} == served


@pytest.mark.parametrize("lock", ["onnx.txt", "serve-all.txt", "gpu.txt", "load.txt", "study.txt"])
def test_every_locked_package_has_a_hash_and_no_index_is_named(lock: str) -> None:
    text = (PROJECT / "requirements" / lock).read_text()
    requirements = text.replace("\\\n", "").splitlines()
    assert all("==" in line and "--hash=sha256:" in line for line in requirements)
    assert "://" not in text
    assert "index" not in text


def test_the_onnx_image_and_the_bento_need_no_framework() -> None:
    assert not {"torch", "tensorflow", "keras"} & pins("onnx.txt").keys()


def test_the_image_and_the_bento_hold_the_rooms_that_a_server_imports() -> None:
    rooms = set(tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    imported = python(
        "import sys, serving.service, runtimes.numpy_runtime, runtimes.onnx_runtime\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    needed = rooms & set(imported.split())
    assert set(re.findall(r"^COPY (\w+) \1$", (PROJECT / "docker/Dockerfile").read_text(), re.MULTILINE)) == needed
    assert set(re.findall(r'"/(\w+)/\*\*/\*\.py"', (PROJECT / "bentofile.yaml").read_text())) == needed


def test_the_image_of_a_study_holds_the_rooms_that_the_command_line_imports_anywhere() -> None:
    rooms = {
        one.partition(".")[0]
        for one in tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    }
    found, new = set[str](), {"samedigit"}
    while new:
        found |= new
        text = "\n".join(path.read_text() for room in new for path in (PROJECT / room).rglob("*.py"))
        new = (set(re.findall(r"^\s*(?:from|import) (\w+)", text, re.MULTILINE)) & rooms) - found
    copied = set(re.findall(r"^COPY (\w+) \1$", (PROJECT / "docker/study.Dockerfile").read_text(), re.MULTILINE))
    assert copied == found


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What build-image needs of the project, without a .venv, so that it takes the python3 of its PATH."""
    folder = tmp_path / "checkout"
    shutil.copytree(PROJECT / "docker", folder / "docker")
    shutil.copytree(PROJECT / "digits", folder / "digits")
    shutil.copytree(PROJECT / "requirements", folder / "requirements")
    return folder


def build_image(
    checkout: Path, home: Path, *arguments: str, engine: str | None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs build-image where `engine` works and writes down what it is asked, and the others do not run."""
    commands = checkout / "bin"
    commands.mkdir()
    scripts = dict.fromkeys(("docker", "podman", "buildah"), "exit 1")
    if engine is not None:
        scripts[engine] = f'echo "{engine} $*" >>asked; [ "$1" != images ] || echo "500 MB"'
    scripts["python3"] = f'exec "{sys.executable}" "$@"'
    for name, script in scripts.items():
        (commands / name).write_text(f"#!/bin/sh\n{script}\n")
        (commands / name).chmod(0o755)
    return subprocess.run(
        [checkout / "docker/build-image", *arguments],
        env={**os.environ, "PATH": f"{commands}:/usr/bin:/bin", "BENTOML_HOME": str(home), **variables},
        cwd=checkout.parent,
        capture_output=True,
        text=True,
        timeout=120,
        umask=0o077,
    )


@pytest.mark.parametrize("target", ["onnx", "all", "gpu"])
def test_stages_what_the_target_opens_and_nothing_else(checkout: Path, trained_home: Path, target: str) -> None:
    built = build_image(checkout, trained_home, target, engine="docker")
    assert built.returncode == 0, built.stderr
    staged = checkout / "build/image" / target
    stored = {file.parent.name for file in (trained_home / "models").glob("*/promoted")}
    assert {folder.name for folder in staged.iterdir()} == stored
    for recipe in stored:
        promoted = staged / recipe / "promoted"
        assert {path.name for path in promoted.parent.iterdir()} == {"promoted", promoted.read_text()}
        files = {file.name for file in (promoted.parent / promoted.read_text()).iterdir()}
        assert files == {"card.json", *(EXPORTED[backend] for backend in STORED[target])}
    for path in (staged, *staged.rglob("*")):  # for everybody, though they were private here
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path

    served = python(
        "from serving.models import ServedModels\n"
        "from serving.settings import read_settings\n"
        "models = ServedModels(read_settings())\n"
        "models.open()\n"
        "print(*sorted(entry['model'].partition(':')[0] for entry in models.describe()['models']))",
        environment={
            "BENTOML_HOME": str(checkout / "nowhere"),
            "SAMEDIGIT_MODEL_FOLDER": str(staged),
            "SAMEDIGIT_BACKENDS": "onnx",
            "SAMEDIGIT_DEVICE": "cpu",
        },
    )
    assert served.split() == sorted(stored)


@pytest.mark.parametrize(
    ("engine", "options"),
    [("docker", ""), ("podman", "--format docker "), ("buildah", "--format docker --isolation chroot ")],
)
def test_asks_the_engine_that_works(checkout: Path, trained_home: Path, engine: str, options: str) -> None:
    built = build_image(checkout, trained_home, engine=engine)
    assert built.returncode == 0, built.stderr
    asked = (checkout / "asked").read_text()
    base = "docker.io/library/python:3.11-slim"
    assert (
        f"{engine} build {options}--build-arg BASE={base} --target onnx --tag samedigit:onnx --file docker/Dockerfile .\n"
    ) in asked
    assert "made samedigit:onnx, 500 MB" in built.stdout


def test_another_base_may_be_pinned_by_its_digest_and_a_commit_is_named_with_its_time(
    checkout: Path, trained_home: Path
) -> None:
    for command in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-q", "--allow-empty", "-m", "a",
         "--date", "2026-01-02T03:04:05+00:00"],
    ):  # fmt: skip
        dated = {**os.environ, "GIT_COMMITTER_DATE": "2026-01-02T03:04:05+00:00"}
        subprocess.run(["git", *command], cwd=checkout, check=True, env=dated)
    (checkout / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    base = f"registry.example.org/python@sha256:{'0' * 64}"
    built = build_image(checkout, trained_home, engine="docker", BASE=base)
    assert built.returncode == 0, built.stderr
    (asked,) = re.findall(r"^docker build (.*)$", (checkout / "asked").read_text(), re.MULTILINE)
    given = dict(re.findall(r"--build-arg (\w+)=(\S+)", asked))
    assert re.fullmatch(r"[0-9a-f]{40}", given.pop("REVISION"))
    assert given == {"BASE": base, "VERSION": "1.2.3", "CREATED": "2026-01-02T03:04:05+00:00"}
    declared = set(re.findall(r"^ARG (\w+)", (PROJECT / "docker/Dockerfile").read_text(), re.MULTILINE))
    assert declared == {*given, "REVISION", "BILL", "TORCH_INDEX"}


def listed(checkout: Path, target: str) -> dict[str, str]:
    """Package -> its version, of what docker/Dockerfile installs."""
    text = (checkout / f"build/image/{target}.txt").read_text()
    assert all("==" in line and "--hash=sha256:" in line for line in text.replace("\\\n", "").splitlines())
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize(("target", "lock"), [("onnx", "onnx.txt"), ("all", "serve-all.txt"), ("gpu", "gpu.txt")])
def test_an_image_holds_its_locks_packages_without_what_no_server_imports(
    checkout: Path, trained_home: Path, target: str, lock: str
) -> None:
    built = build_image(checkout, trained_home, target, engine="docker")
    assert built.returncode == 0, built.stderr
    found = listed(checkout, target)
    assert all(version in pins(lock)[name] for name, version in found.items())
    gone = pins(lock).keys() - found
    assert gone == {
        "onnx": set(),
        "all": {
            "cuda-bindings", "cuda-pathfinder", "cuda-toolkit", "libclang", "nvidia-cuda-cccl", "nvidia-cusolver",
            "nvidia-nvjitlink", "nvidia-nvtx", "triton",
        },
        "gpu": set(),
    }[target]  # fmt: skip


def test_the_gpu_image_has_one_set_of_cudas_libraries_and_what_onnxruntime_loads_of_it() -> None:
    found = pins("gpu.txt").keys()
    assert not [name for name in found if re.search(r"-cu\d+$", name) and not name.endswith("-cu13")]
    assert {
        "torch",
        "onnxruntime-gpu",
        "nvidia-cublas",
        "nvidia-cuda-runtime",
        "nvidia-cudnn-cu13",
        "nvidia-curand",
    } <= found
    assert (
        not {"tensorflow", "onnxruntime"} & found
    )  # TensorFlow's CUDA is 12; of onnxruntime two builds would be one folder


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """Of packages, on this machine: it has a torch for the CPU, and nothing else."""
    folder = tmp_path / "index" / "torch"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "torch-2.99.0+cpu-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            "torch-2.99.0+cpu.dist-info/METADATA", "Metadata-Version: 2.1\nName: torch\nVersion: 2.99.0+cpu\n"
        )
        wheel.writestr(
            "torch-2.99.0+cpu.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
    (file,) = folder.iterdir()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "index.html").write_text(f'<a href="{file.name}#sha256={digest}">{file.name}</a>')
    handler = partial(SimpleHTTPRequestHandler, directory=folder.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_torch_comes_from_an_index_of_cpu_builds_with_the_hash_that_it_gives_and_without_cuda(
    checkout: Path, trained_home: Path, index: str
) -> None:
    stage = [sys.executable, str(checkout / "docker/stage_packages.py"), "all"]
    asked = {**os.environ, "TORCH_INDEX": index, "TORCH": "2.99.0+cpu", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(stage, cwd=checkout, env=asked, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "torch is torch==2.99.0+cpu of http://127.0.0.1:" in done.stdout
    assert "its hash is what that index says now" in done.stdout
    found = listed(checkout, "all")
    assert found["torch"] == "2.99.0+cpu"
    cuda = {name for name in found if re.match(r"nvidia|cuda|triton", name)}
    assert cuda == {"nvidia-ml-py"}  # which BentoML imports
    assert pins("serve-all.txt").keys() - found.keys() > {"nvidia-cublas", "triton", "libclang"}

    missing = subprocess.run(
        stage, cwd=checkout, env={**asked, "TORCH": ""}, capture_output=True, text=True, timeout=120
    )
    assert missing.returncode == 1
    (locked,) = pins("serve-all.txt")["torch"]
    assert f"{index} gives no torch=={locked}+cpu. Set TORCH to a version that it has." in missing.stderr


@pytest.mark.slow
def test_the_packages_in_the_image_are_listed_beside_it_and_it_names_the_list(
    checkout: Path, trained_home: Path
) -> None:
    (checkout / ".venv").symlink_to(sys.prefix)
    shutil.copy(PROJECT / "pyproject.toml", checkout)
    built = build_image(checkout, trained_home, engine="docker")
    assert built.returncode == 0, built.stderr
    contents = (checkout / "build/image/samedigit-onnx.cdx.json").read_bytes()
    listed = {
        re.sub(r"[-_.]+", "-", component["name"]).lower(): component["version"]
        for component in json.loads(contents)["components"]
    }
    assert {"bentoml", "numpy", "onnxruntime", "pillow"} <= listed.keys()
    assert all(version in pins("onnx.txt")[name] for name, version in listed.items())
    named = f"--build-arg BILL=samedigit-onnx.cdx.json sha256:{hashlib.sha256(contents).hexdigest()} "
    assert named in (checkout / "asked").read_text()


def test_the_image_starts_the_server_in_one_process_and_serves_the_folder_that_is_copied_in() -> None:
    text = (PROJECT / "docker/Dockerfile").read_text()
    (command,) = re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)
    assert json.loads(command) == ["python", *serve_command(host="0.0.0.0", port=3000)[2:]]
    (folder,) = re.findall(r"SAMEDIGIT_MODEL_FOLDER=(\S+)", text)
    assert set(re.findall(r"^COPY (?:build/image/|--from=\S+ /srv/)\w+ (\S+)$", text, re.MULTILINE)) == {folder}


def test_nothing_stored(checkout: Path, tmp_path: Path) -> None:
    built = build_image(checkout, tmp_path / "nowhere", engine="docker")
    assert built.returncode == 1
    assert built.stderr.startswith("build-image: The image has nothing to serve: no model is stored in ")
    assert built.stderr.endswith("Train one: samedigit train --all\n")
    assert "build" not in (checkout / "asked").read_text()


def test_the_promoted_version_is_the_one_that_is_built_in_and_that_the_image_serves(
    checkout: Path, trained_home: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "home/models/numpy-sigmoid"
    shutil.copytree(trained_home / "models/numpy-sigmoid", recipe)
    version = (recipe / "promoted").read_text()
    card = (recipe / version / "model.yaml").read_text()
    assert card.count(f"version: {version}\n") == 1
    (trained_at,) = re.findall(r"trained_at: '(\d+)", card)
    shutil.copytree(recipe / version, recipe / "newer")
    newer = card.replace(f"version: {version}\n", "version: newer\n").replace(
        f"trained_at: '{trained_at}", "trained_at: '2999"
    )
    (recipe / "newer/model.yaml").write_text(newer)
    (recipe / "latest").write_text("newer")

    built = build_image(checkout, tmp_path / "home", engine="docker")
    assert built.returncode == 0, built.stderr
    assert f"build-image: models numpy-sigmoid:{version}\n" in built.stdout
    staged = checkout / "build/image/onnx"
    assert sorted(path.name for path in (staged / "numpy-sigmoid").iterdir()) == sorted(["promoted", version])
    assert [model.tag for model in served_models(folder=staged)] == [f"numpy-sigmoid:{version}"]


def test_runs_that_departed_are_not_built_in(checkout: Path, trained_home: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "home/models/numpy-sigmoid"
    shutil.copytree(trained_home / "models/numpy-sigmoid", recipe)
    (recipe / "promoted").unlink()
    built = build_image(checkout, tmp_path / "home", engine="docker")
    assert built.returncode == 1
    assert built.stderr.startswith(
        "build-image: The image has nothing to serve: every stored run departed from its recipe (numpy-sigmoid:"
    )


def test_a_damaged_model_is_not_built_in(checkout: Path, trained_home: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(trained_home / "models/numpy-sigmoid", home / "models/numpy-sigmoid")
    (damaged,) = home.glob("models/*/*/model.onnx")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    built = build_image(checkout, home, engine="docker")
    assert built.returncode == 1
    assert f"{damaged} is not the file that was stored" in built.stderr
    assert not (checkout / "build/image/onnx").exists()


def test_no_engine(checkout: Path, tmp_path: Path) -> None:
    built = build_image(checkout, tmp_path, engine=None)
    assert built.returncode == 1
    assert built.stderr.startswith("build-image: needs docker, podman or buildah")


def test_unknown_target(checkout: Path, tmp_path: Path) -> None:
    built = build_image(checkout, tmp_path, "onxn", engine="docker")
    assert built.returncode == 1
    assert built.stderr == "build-image: the target must be onnx, all or gpu; got 'onxn'.\n"
