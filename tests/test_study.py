"""Studies: a run is there whole or not at all, and a study that was killed ends as one that was not."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil
import pytest
from conftest import PROJECT, python, require_recipe

from digits.card import Score
from digits.errors import StudyError
from digits.mnist import LabelledImages
from digits.network import dense_network
from training.recipes import RECIPES, Recipe
from training.study import (
    WHOLE,
    Progress,
    Run,
    Share,
    _alone_in,
    _check_space,
    estimate_seconds_left,
    read_runs,
    run_study,
)

pytestmark = pytest.mark.slow

SEEDS: Final = 4
MEASURED: Final = (  # what differs between two runs that are otherwise the same
    "train_seconds",
    "import_seconds",
    "first_prediction_seconds",
    "peak_memory_mb",
    "finished_at",
    "file",
)

STUDY: Final = """
import json, sys
from pathlib import Path
from training.recipes import Recipe
from training.study import Share, run_study
recipes = [Recipe.from_data(fields) for fields in json.loads(sys.argv[2])]
share = Share.read(sys.argv[5] if len(sys.argv) > 5 else "1/1")
say = lambda progress: print(progress.done, flush=True)
run_study(recipes, seeds=int(sys.argv[3]), folder=Path(sys.argv[1]), jobs=int(sys.argv[4]), share=share, on_done=say)
"""


def small(name: str, **changes: Any) -> Recipe:
    return dataclasses.replace(
        RECIPES[name], **{"epochs": 1, "batch_size": 500, "network": dense_network((16,), "relu"), **changes}
    )


SIGMOID: Final = small("numpy-sigmoid")
DEEP: Final = small("numpy-deep")  # holds out training images
RECIPES_HERE: Final = [SIGMOID, DEEP]
TOTAL: Final = SEEDS * len(RECIPES_HERE)


@dataclass(frozen=True)
class Study:
    folder: Path
    runs: list[Run]
    progress: list[Progress]
    at: list[float]  # seconds from the start to each progress


@pytest.fixture(scope="module", autouse=True)
def _needs() -> None:
    require_recipe(SIGMOID.name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """An uninterrupted study, one run at a time. Not to be written to."""
    folder = tmp_path_factory.mktemp("whole") / "study"
    progress: list[Progress] = []
    at: list[float] = []
    started = time.perf_counter()

    def on_done(now: Progress) -> None:
        progress.append(now)
        at.append(time.perf_counter() - started)

    return Study(folder, run_study(RECIPES_HERE, seeds=SEEDS, folder=folder, jobs=1, on_done=on_done), progress, at)


def comparable(run: Run) -> dict[str, Any]:
    fields = {key: value for key, value in dataclasses.asdict(run).items() if key not in MEASURED}
    fields["history"] = [{**epoch, "seconds": None} for epoch in fields["history"]]
    return fields


def assert_same(found: list[Run], expected: list[Run]) -> None:
    assert [comparable(run) for run in found] == [comparable(run) for run in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.file.read_bytes() == other.file.read_bytes()


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def made_at(folder: Path) -> dict[str, int]:
    """When each file of a finished run was; a run that was killed may have left the first of its two."""
    made = [path for path in folder.glob("*/seed-*") if path.with_suffix(".json").exists()]
    return {str(path): path.stat().st_mtime_ns for path in made}


# What a run leaves


def test_every_field_has_its_type(whole: Study) -> None:
    types: dict[str, type | tuple[type, ...]] = {
        "recipe": dict,
        "recipe_sha256": str,
        "framework": str,
        "seed": int,
        "correct": int,
        "total": int,
        "history": list,
        "held_out": str,
        "train_seconds": float,
        "import_seconds": float,
        "first_prediction_seconds": float,
        "peak_memory_mb": float,
        "device": str,
        "threads": int,
        "versions": dict,
        "machine": str,
        "finished_at": str,
    }
    for file in whole.folder.glob("*/*.json"):
        fields = json.loads(file.read_text())
        assert {key: type(value) for key, value in fields.items()} == types
        assert set(fields["recipe"]) == {field.name for field in dataclasses.fields(Recipe)}
        assert re.fullmatch("[0-9a-f]{64}", fields["recipe_sha256"])
        assert {type(value) for epoch in fields["history"] for value in epoch.values()} == {float}
        assert len(fields["history"]) == fields["recipe"]["epochs"] == 1


def test_a_run_holds_what_its_seed_gave(whole: Study, test_set: LabelledImages) -> None:
    expected = [(recipe.name, seed) for recipe in RECIPES_HERE for seed in range(1, SEEDS + 1)]
    assert [(run.name, run.seed) for run in whole.runs] == expected
    assert read_runs(whole.folder) == whole.runs
    for run in whole.runs:
        assert run.recipe["seed"] == run.seed
        probabilities = run.probabilities()
        assert probabilities.dtype == np.float32
        assert Score.of(probabilities, test_set.labels) == Score(correct=run.correct, total=run.total)
        assert run.accuracy > 0.5
        assert run.train_seconds > 0
        assert run.import_seconds > 0
        assert 0 < run.first_prediction_seconds < run.train_seconds
        held_out = run.held_out_probabilities()
        if run.name == DEEP.name:
            assert held_out is not None
            assert held_out.shape == (6000, 10)
        else:
            assert held_out is None
    assert len({run.correct for run in whole.runs}) > 1  # seeds differ
    assert len({run.recipe_sha256 for run in whole.runs}) == len(RECIPES_HERE)


def test_the_folder_holds_the_pairs_and_nothing_else(whole: Study) -> None:
    pairs = [
        f"{recipe.name}/seed-{seed:04d}.{kind}"
        for recipe in RECIPES_HERE
        for seed in range(1, SEEDS + 1)
        for kind in ("json", "npz")
    ]
    assert files(whole.folder) == sorted([".lock", *pairs])


def test_peak_memory_is_of_the_run_and_not_of_who_started_it(whole: Study, tmp_path: Path) -> None:
    big = "import numpy\nballast = numpy.ones(10**8)\n"  # 800 MB
    python(big + STUDY, tmp_path, json.dumps([SIGMOID.to_data()]), 1, 1)
    usual = whole.runs[0].peak_memory_mb
    assert 50 < usual < 700
    assert read_runs(tmp_path)[0].peak_memory_mb == pytest.approx(usual, rel=0.2)


# Progress


def test_progress_counts_every_run_once_and_ends_with_no_time_left(whole: Study) -> None:
    assert [progress.done for progress in whole.progress] == list(range(TOTAL + 1))
    assert {progress.total for progress in whole.progress} == {TOTAL}
    assert whole.progress[0].run is None
    assert whole.progress[0].seconds_left is None
    assert {(run.name, run.seed) for run in (progress.run for progress in whole.progress) if run} == {
        (run.name, run.seed) for run in whole.runs
    }
    assert whole.progress[-1].seconds_left == 0


def test_the_estimate_is_near_the_time_it_took(whole: Study) -> None:
    half = TOTAL // 2
    estimate, took = whole.progress[half].seconds_left, whole.at[-1] - whole.at[half]
    assert estimate is not None
    assert took / 10 < estimate < took * 10  # seconds, not milliseconds; others may slow either


def test_the_estimate_adds_up() -> None:
    took = {"fast": [1.0, 3.0], "slow": [10.0]}
    assert estimate_seconds_left(["fast"] * 4, [], took, jobs=1) == 8
    assert estimate_seconds_left(["fast"] * 4, [], took, jobs=2) == 4
    assert estimate_seconds_left(["fast", "slow"], [], took, jobs=2) == 10  # the slow one alone takes as long
    assert estimate_seconds_left(["unseen"], [], took, jobs=1) == 6
    assert estimate_seconds_left([], [("slow", 4.0)], took, jobs=2) == 6
    assert estimate_seconds_left([], [("slow", 20.0)], took, jobs=2) == 2  # overdue, and not done
    assert estimate_seconds_left(["slow"], [], {}, jobs=1) is None
    assert estimate_seconds_left([], [], {}, jobs=1) == 0


# Killed and resumed


# A run may only finish, by renaming its .json, once it has read a byte of the gate: so many have finished, and no more.
GATED: Final = """
import os, sys
replace = os.replace

def gated(source, target):
    if str(target).endswith(".json"):
        with open(os.environ["GATE"], "rb", buffering=0) as gate:
            gate.read(1)
    replace(source, target)

if "run_here" in sys.orig_argv[2]:
    os.replace = gated
"""


@dataclass(frozen=True)
class Started:
    """A study, or a share of one, in a process of its own; it prints how many are done."""

    process: subprocess.Popen[str]
    gate: int  # file descriptor

    def done(self) -> int:
        """As printed next."""
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def let_finish(self, number: int = 1) -> None:
        os.write(self.gate, b"." * number)

    def under_way(self, number: int = 2) -> list[psutil.Process]:
        """Waits until so many runs are; the one started last at the end."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            children = psutil.Process(self.process.pid).children()
            if len(children) == number:
                return sorted(children, key=lambda child: child.create_time())
            time.sleep(0.01)
        raise AssertionError(f"{number} runs were never under way")


@contextmanager
def started_study(folder: Path, gate: Path, *, jobs: int = 2, share: Share = WHOLE) -> Iterator[Started]:
    recipes = json.dumps([recipe.to_data() for recipe in RECIPES_HERE])
    gate.mkdir(exist_ok=True)
    (gate / "sitecustomize.py").write_text(GATED)
    pipe = gate / "pipe"
    if not pipe.exists():
        os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDWR)  # both ends, so that no run waits for a writer or sees an end
    process = subprocess.Popen(
        [sys.executable, "-c", STUDY, str(folder), recipes, str(SEEDS), str(jobs), str(share)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(gate), "GATE": str(pipe)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Started(process, descriptor)
        finally:
            process.kill()
            os.close(descriptor)


def have_ended(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=60)
    return not alive


def test_a_study_killed_twice_and_interrupted_once_equals_one_that_was_not(whole: Study, tmp_path: Path) -> None:
    folder, gate = tmp_path / "study", tmp_path / "gate"
    with started_study(folder, gate) as study:
        assert study.done() == 0
        study.let_finish()
        assert study.done() == 1
        children = study.under_way()
        study.process.kill()
        assert have_ended(children)  # with it
    finished = made_at(folder)
    assert len(read_runs(folder)) == 1

    with started_study(folder, gate) as study:
        assert study.done() == 1
        study.let_finish()
        assert study.done() == 2
        killed = study.under_way()[-1]
        killed.kill()
        assert have_ended([killed])
        study.let_finish()  # the other
        _, said = study.process.communicate(timeout=60)
    assert study.process.returncode != 0
    assert re.search(r"StudyError: numpy-\w+ with seed \d was killed by signal 9", said)
    assert finished.items() <= made_at(folder).items()
    assert len(read_runs(folder)) == 3

    with started_study(folder, gate) as study:
        assert study.done() == 3
        study.let_finish()
        assert study.done() == 4
        children = study.under_way()
        study.process.send_signal(signal.SIGINT)
        study.process.wait(timeout=60)
        assert have_ended(children)
    kept = [(run.name, run.seed) for run in read_runs(folder)]
    assert len(kept) == 4

    progress: list[Progress] = []
    runs = run_study(RECIPES_HERE, seeds=SEEDS, folder=folder, jobs=2, on_done=progress.append)
    assert [now.done for now in progress] == list(range(len(kept), TOTAL + 1))
    assert not {(now.run.name, now.run.seed) for now in progress if now.run} & {*kept}
    assert_same(runs, whole.runs)
    assert files(folder) == files(whole.folder)


def test_what_a_killed_run_left_is_not_read_and_is_replaced(whole: Study, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(whole.folder, folder)
    run = folder / SIGMOID.name / "seed-0002.npz"
    run.with_suffix(".json").unlink()
    run.write_bytes(run.read_bytes()[:1000])
    run.with_name(".seed-0002.json.123").write_text('{"recipe": ')
    assert len(read_runs(folder)) == TOTAL - 1
    progress: list[Progress] = []
    assert_same(run_study(RECIPES_HERE, seeds=SEEDS, folder=folder, on_done=progress.append), whole.runs)
    assert [now.done for now in progress] == [TOTAL - 1, TOTAL]
    assert files(folder) == files(whole.folder)


def test_a_finished_study_is_not_run_again_and_a_part_of_it_can_be_asked_for(whole: Study) -> None:
    before = made_at(whole.folder)
    assert run_study(RECIPES_HERE, seeds=SEEDS, folder=whole.folder) == whole.runs
    assert run_study([DEEP, DEEP], seeds=1, folder=whole.folder) == [whole.runs[SEEDS]]
    assert made_at(whole.folder) == before


# Several machines


def test_shares_have_every_run_once_and_make_the_same_study(whole: Study, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    done: list[list[tuple[str, int]]] = []
    for number in (1, 2, 3):
        before = {(run.name, run.seed) for run in read_runs(folder)}
        progress: list[Progress] = []
        found = run_study(RECIPES_HERE, seeds=SEEDS, folder=folder, share=Share(number, 3), on_done=progress.append)
        done.append([(run.name, run.seed) for run in found if (run.name, run.seed) not in before])
        assert (progress[0].done, progress[-1].done) == (0, len(done[-1]))
        assert progress[0].total == len(done[-1])
    assert sorted(map(len, done)) == [TOTAL // 3, *[-(-TOTAL // 3)] * 2]
    assert_same(read_runs(folder), whole.runs)


def test_every_share_has_its_part_of_every_recipe(whole: Study, tmp_path: Path) -> None:
    """Else the one with all the slow ones would be waited for."""
    for number in (1, 2):
        folder = tmp_path / str(number)
        runs = run_study(RECIPES_HERE, seeds=SEEDS, folder=folder, share=Share(number, 2))
        assert {(run.name, run.seed % 2) for run in runs} == {(recipe.name, number % 2) for recipe in RECIPES_HERE}
        assert len(runs) == TOTAL / 2


def test_a_share_killed_in_the_middle_and_started_again_beside_the_others_makes_the_same_study(
    whole: Study, tmp_path: Path
) -> None:
    """As an Indexed Job does it with a pod: deploy/kubernetes/study."""
    folder = tmp_path / "study"
    with ExitStack() as running:
        one, two, three = (
            running.enter_context(started_study(folder, tmp_path / f"gate{number}", jobs=1, share=Share(number, 3)))
            for number in (1, 2, 3)
        )
        assert [share.done() for share in (one, two, three)] == [0, 0, 0]
        two.let_finish()
        assert two.done() == 1
        kept = made_at(folder)
        children = two.under_way(1)
        until = time.monotonic() + 60
        while len(list(folder.glob("*/.seed-*.json.*"))) < 3:  # each share's run is about to finish
            assert time.monotonic() < until
            time.sleep(0.01)
        two.process.kill()
        assert have_ended(children)
        assert len(read_runs(folder)) == 1
        for share in (one, three):
            share.let_finish(TOTAL)
        with started_study(folder, tmp_path / "gate2", jobs=1, share=Share(2, 3)) as again:
            assert again.done() == 1
            again.let_finish(TOTAL)
            for share in (one, again, three):
                _, said = share.process.communicate(timeout=60)
                assert share.process.returncode == 0, said
    assert kept.items() <= made_at(folder).items()
    progress: list[Progress] = []
    assert_same(run_study(RECIPES_HERE, seeds=SEEDS, folder=folder, on_done=progress.append), whole.runs)
    assert [(now.done, now.total) for now in progress] == [(TOTAL, TOTAL)]  # nothing was left to do
    locks = [f".lock-{number}-of-3" for number in (1, 2, 3)]
    assert files(folder) == sorted([*files(whole.folder), *locks])


def test_the_lock_is_open_for_reading_and_writing_which_nfs_asks_for(tmp_path: Path) -> None:
    with _alone_in(tmp_path, Share(1, 2)):
        locks = [one.fd for one in psutil.Process().open_files() if Path(one.path).parent == tmp_path]
        assert [fcntl.fcntl(lock, fcntl.F_GETFL) & os.O_ACCMODE for lock in locks] == [os.O_RDWR] * 2


def test_two_shares_run_at_once_but_neither_twice_nor_beside_the_whole(whole: Study, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    with _alone_in(folder, Share(1, 2)), _alone_in(folder, Share(2, 2)):
        for other in (Share(2, 2), WHOLE):
            with pytest.raises(StudyError, match="Another study is running in"), _alone_in(folder, other):
                pass
    with (
        _alone_in(folder, WHOLE),
        pytest.raises(StudyError, match="Another study is running in"),
        _alone_in(folder, Share(1, 2)),
    ):
        pass


def test_what_a_share_that_died_left_is_done_with_the_whole_and_by_no_other_share(whole: Study, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    (folder / SIGMOID.name).mkdir(parents=True)
    theirs = folder / SIGMOID.name / ".seed-0001.npz.77"  # of the first share, which may be writing it
    theirs.touch()
    run_study(RECIPES_HERE, seeds=SEEDS, folder=folder, share=Share(2, 2))
    assert theirs.exists()
    assert {run.seed for run in read_runs(folder)} == {2, 4}
    assert_same(run_study(RECIPES_HERE, seeds=SEEDS, folder=folder), whole.runs)
    assert not theirs.exists()


@pytest.mark.parametrize("text", ["", "3", "0/8", "9/8", "3/", "/8", "-1/8", "3/8/9", "3 of 8", "1.5/2"])
def test_a_share_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(StudyError, match=re.escape(f"A share is given as 3/8, the third of eight; got {text!r}.")):
        Share.read(text)
    assert (Share.read("3/8"), str(Share(3, 8))) == (Share(3, 8), "3/8")


# Refused, before any training


def test_a_recipe_that_has_changed_is_refused_by_name(whole: Study) -> None:
    changed = dataclasses.replace(DEEP, learning_rate=0.5, seed=7)
    with pytest.raises(
        StudyError, match=r"^numpy-deep has changed \(learning_rate\) since 4 of its runs in .*numpy-deep"
    ):
        run_study([SIGMOID, changed], seeds=SEEDS + 1, folder=whole.folder)
    assert len(read_runs(whole.folder)) == TOTAL


def test_a_folder_in_use_is_refused(whole: Study) -> None:
    with open(whole.folder / ".lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StudyError, match="Another study is running in"):
            run_study([SIGMOID], seeds=1, folder=whole.folder)
    run_study([SIGMOID], seeds=1, folder=whole.folder)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match=r"cannot be written to .*file/study: Not a directory\. .*--study"):
        run_study([SIGMOID], seeds=1, folder=tmp_path / "file" / "study")


def test_too_little_space_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        StudyError, match=r"^1000000000000 runs may need 1000000000000 MB in .*, but its disk has \d+ MB"
    ):
        _check_space(tmp_path, 10**12)
    _check_space(tmp_path, 1)


def test_a_missing_framework_is_told_before_any_run(without: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    code = f"""
from digits.errors import NotInstalled
try:
{re.sub("(?m)^", "    ", STUDY)}
except NotInstalled as error:
    print(error)
"""
    recipes = json.dumps([recipe.to_data() for recipe in (SIGMOID, RECIPES["torch-relu"])])
    said = python(code, tmp_path / "study", recipes, 1, 1, environment=without("torch"))
    assert said.startswith("Training with torch needs torch")
    assert not (tmp_path / "study").exists()


# A run that fails


def test_a_failed_run_is_named_and_the_others_under_way_are_finished(whole: Study, tmp_path: Path) -> None:
    obstacle = tmp_path / SIGMOID.name / "seed-0001.json"
    obstacle.mkdir(parents=True)
    with pytest.raises(StudyError, match=r"^numpy-sigmoid with seed 1 failed \(exit 1\)") as caught:
        run_study(RECIPES_HERE, seeds=SEEDS, folder=tmp_path, jobs=2)
    assert f"{obstacle} cannot be written: Is a directory" in str(caught.value)  # what the run itself said
    obstacle.rmdir()
    runs = read_runs(tmp_path)
    assert (DEEP.name, 1) in [(run.name, run.seed) for run in runs]
    assert len(runs) < TOTAL / 2
    assert [path for path in files(tmp_path) if "/." in path] == []
    assert_same(run_study(RECIPES_HERE, seeds=1, folder=tmp_path), [whole.runs[0], whole.runs[SEEDS]])


def test_a_disk_that_fills_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk."""
    code = f"""
import resource
from digits.errors import StudyError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
{re.sub("(?m)^", "    ", STUDY)}
except StudyError as error:
    print(error)
"""
    said = python(code, tmp_path, json.dumps([SIGMOID.to_data()]), 1, 1)
    assert "seed-0001.npz cannot be written: File too large." in said
    assert files(tmp_path) == [".lock"]
    assert read_runs(tmp_path) == []


# Damage


def test_a_copied_run_is_not_counted_twice(whole: Study, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(whole.folder, folder)
    for kind in ("json", "npz"):
        shutil.copy(folder / SIGMOID.name / f"seed-0001.{kind}", folder / SIGMOID.name / f"seed-0009.{kind}")
    with pytest.raises(StudyError, match=r"seed-0009\.json is of numpy-sigmoid with seed 1, which belongs in"):
        read_runs(folder)


@pytest.mark.parametrize("contents", ["", "{}", "[]", '{"recipe": 1'])
def test_a_damaged_run_is_named(whole: Study, tmp_path: Path, contents: str) -> None:
    folder = tmp_path / "study"
    shutil.copytree(whole.folder, folder)
    (folder / DEEP.name / "seed-0003.json").write_text(contents)
    with pytest.raises(StudyError, match=r"seed-0003\.json is not a run .* Delete it"):
        read_runs(folder)


def test_damaged_probabilities_are_named(whole: Study, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(whole.folder, folder)
    first, second, *_ = read_runs(folder)
    first.file.write_bytes(first.file.read_bytes()[:5000])
    with pytest.raises(StudyError, match=r"seed-0001\.npz cannot be read"):
        first.probabilities()
    np.savez(second.file, probabilities=np.zeros((3, 10), np.float32))
    with pytest.raises(StudyError, match=r"should hold probabilities \[10000, 10\], but holds an array \[3, 10\]"):
        second.probabilities()


def test_where_there_is_no_study_there_are_no_runs(tmp_path: Path) -> None:
    assert read_runs(tmp_path / "none") == []
