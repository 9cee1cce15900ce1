"""A study: every recipe trained from many seeds, each run in a process of its own, kept where a kill cannot hurt it.

    STUDY/RECIPE/seed-0001.npz      the probabilities of the trained model
    STUDY/RECIPE/seed-0001.json     everything else that is known of the run; see `Run`

Both are written beside and renamed, the .json last: a run whose .json is there is finished and whole, any other is run
again. A run takes one thread and no GPU, and ends at once when the process that started it does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from digits import mnist
from digits.card import Epoch, Score
from digits.contract import CLASSES, Framework, Probabilities
from digits.errors import SamedigitError, StudyError
from digits.machine import machine
from digits.network import arrays, with_inputs
from runtimes.device import CPU
from training import trainers
from training.recipes import RECIPES, Recipe
from training.train import split_for, versions
from training.trainers import Trainer

MEGABYTES_PER_RUN: Final = 1  # more than the largest takes
POLL_SECONDS: Final = 0.05
LAST_WORDS: Final = 2000  # characters of what a failed run printed

# Nothing is imported before the clock runs, so that NumPy counts for the trainer whose framework it is.
_RUN: Final = """
import importlib, sys, time
started = time.perf_counter()
importlib.import_module(f"training.{sys.argv[1]}_trainer")
import_seconds = time.perf_counter() - started
from training.study import run_here
run_here(sys.argv[2], import_seconds=import_seconds)
"""
_ONE_THREAD_NO_GPU: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One recipe trained from one seed. The .json holds these fields, without `file`."""

    recipe: dict[str, Any]  # every field of the recipe, with this seed
    recipe_sha256: str  # of the same without the seed
    framework: Framework
    seed: int
    correct: int  # of the test images, by the trained model itself
    total: int
    history: tuple[Epoch, ...]
    held_out: str  # which images history's held_out_accuracy is of
    train_seconds: float  # the epochs alone
    import_seconds: float  # the trainer with its framework, in a fresh process
    first_prediction_seconds: float  # from nothing but the import to the answer for one image: building the model, too
    peak_memory_mb: float  # resident, of the whole run
    device: str
    threads: int
    versions: dict[str, str]  # package -> version
    machine: str
    finished_at: str  # ISO 8601, UTC
    file: Path  # the .npz

    @property
    def name(self) -> str:
        """The recipe's."""
        return str(self.recipe["name"])

    @property
    def accuracy(self) -> float:
        """In [0, 1]."""
        return self.correct / self.total

    def probabilities(self) -> Probabilities:
        """Of the test images, float32 `[10000, 10]`.

        Raises:
            StudyError: the file cannot be read, or does not hold them.
        """
        probabilities = self._array("probabilities")
        if probabilities is None or probabilities.shape != (self.total, CLASSES):
            found = "nothing" if probabilities is None else f"an array {list(probabilities.shape)}"
            raise StudyError(
                f"{self.file} should hold probabilities [{self.total}, {CLASSES}], but holds {found}. {_delete(self.file)}"
            )
        return probabilities

    def held_out_probabilities(self) -> Probabilities | None:
        """Of the training images that were held out, float32 `[M, 10]`; None where none were.

        Raises:
            StudyError: the file cannot be read.
        """
        return self._array("held_out_probabilities")

    def _array(self, name: str) -> Probabilities | None:
        try:
            with open(self.file, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                array: Probabilities | None = arrays.get(name)
                return array
        except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
            raise StudyError(f"{self.file} cannot be read ({error}). {_delete(self.file)}") from error


@dataclass(frozen=True)
class Share:
    """Of a study that several machines make in one folder, the runs that are this one's: of each recipe every `of`th or so."""

    number: int  # from 1
    of: int

    @classmethod
    def read(cls, text: str) -> Share:
        """From "3/8".

        Raises:
            StudyError: it is nothing of the kind.
        """
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise StudyError(f"A share is given as 3/8, the third of eight; got {text!r}.")
        return cls(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


WHOLE: Final = Share(1, 1)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a study is."""

    done: int  # finished runs of the share, those of earlier calls too
    total: int  # of the share
    seconds_left: float | None  # an estimate; None before the first run is finished
    run: Run | None  # the one that has just finished; None at the start


def run_study(
    recipes: Sequence[Recipe],
    *,
    seeds: int,
    folder: Path,
    jobs: int | None = None,
    share: Share = WHOLE,
    on_done: Callable[[Progress], None] = lambda progress: None,
) -> list[Run]:
    """Trains each recipe from the seeds 1 to `seeds`, in place of its own, but for the runs that are finished already.

    The first seed of every recipe comes first, then the second: what is there of a study cut short is comparable.

    Args:
        recipes: what to train; a recipe named twice counts once.
        seeds: how many, at least 1.
        folder: of the study, made if it is not there.
        jobs: runs at once, at least 1; as many as there are cores without this.
        share: which of the runs to do, where other machines do others. What one that died left is done by whoever asks for
            the whole, once no share is being done.
        on_done: called at the start, and after each run.

    Returns:
        The finished runs of these recipes and seeds, as `read_runs` orders them; with a share, of others too.

    Raises:
        NotInstalled: a recipe's framework is missing.
        DataError: MNIST cannot be had.
        StudyError: the folder cannot be written or is in use, holds runs of a recipe that has changed since, or a run
            failed. No further one is started then; those under way are finished first.
    """
    by_name = {recipe.name: recipe for recipe in recipes}
    for recipe in by_name.values():
        trainers.require(recipe.framework)
    mnist.train_images(), mnist.test_images()  # a download that all runs share, or an error before the first
    wanted = [(name, seed) for seed in range(1, seeds + 1) for name in by_name]
    # Dealt out recipe by recipe, so that no share has all the slow ones, and done seed by seed.
    by_recipe = [(name, seed) for name in by_name for seed in range(1, seeds + 1)]
    ours = sorted(by_recipe[share.number - 1 :: share.of], key=lambda run: run[1])
    with _alone_in(folder, share):
        for name in by_name:
            _make_folder(folder / name)
        for name, seed in ours:
            for leftover in (folder / name).glob(f".seed-{seed:04d}.*"):  # of runs that were killed
                leftover.unlink(missing_ok=True)
        runs = {(run.name, run.seed): run for run in read_runs(folder) if run.name in by_name}
        _check_unchanged(by_name, list(runs.values()))
        missing = [dataclasses.replace(by_name[name], seed=seed) for name, seed in ours if (name, seed) not in runs]
        _check_space(folder, len(missing))
        _run_all(missing, folder, jobs or _cores(), total=len(ours), kept=list(runs.values()), on_done=on_done)
        asked = set(wanted)
        return [run for run in read_runs(folder) if (run.name, run.seed) in asked]


def read_runs(study: Path) -> list[Run]:
    """Every finished run in the folder of a study, by recipe in the order of the table, then by seed; none without a study.

    Raises:
        StudyError: a run cannot be read.
    """
    table = list(RECIPES)
    # A run whose .npz was deleted is to be done again.
    runs = [_read_run(file) for file in study.glob("*/seed-*.json") if file.with_suffix(".npz").is_file()]
    return sorted(
        runs, key=lambda run: (table.index(run.name) if run.name in table else len(table), run.name, run.seed)
    )


def _read_run(file: Path) -> Run:
    try:
        fields = json.loads(file.read_bytes())
        fields["history"] = tuple(Epoch(**epoch) for epoch in fields["history"])
        run = Run(**fields, file=file.with_suffix(".npz"))
        expected = _file(file.parent.parent, run.name, run.seed)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StudyError(
            f"{file} is not a run that this version of Samedigit can read ({error}). {_delete(file)}"
        ) from error
    if file != expected:  # a copy would count one run twice
        raise StudyError(f"{file} is of {run.name} with seed {run.seed}, which belongs in {expected}. {_delete(file)}")
    return run


def _file(study: Path, name: str, seed: int) -> Path:
    return study / name / f"seed-{seed:04d}.json"


def _delete(file: Path) -> str:
    return f"Delete it, and the run is done again: rm {file.with_suffix('.json')}"


_ABOUT: Final = ("seed", "source", "reported")  # what a recipe's runs need not have in common


def _sha256(recipe: Recipe) -> str:
    """Of what the runs of a recipe have in common, without the words about it."""
    fields = {key: value for key, value in recipe.to_data().items() if key not in _ABOUT}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


# Before the first run


@contextlib.contextmanager
def _alone_in(folder: Path, share: Share) -> Iterator[None]:
    """Holds the folder's lock, which the system releases whatever becomes of this process: a share, beside other shares."""
    _make_folder(folder)
    locks = {".lock": fcntl.LOCK_EX}
    if share != WHOLE:
        locks = {".lock": fcntl.LOCK_SH, f".lock-{share.number}-of-{share.of}": fcntl.LOCK_EX}
    with contextlib.ExitStack() as stack:
        for name, kind in locks.items():
            path = folder / name
            try:
                lock = stack.enter_context(open(path, "a+b"))  # NFS shares a lock with readers alone, flock(2)
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StudyError(
                    f"Another study is running in {folder}. Wait until it is done, or give another folder: --study"
                ) from error
            except OSError as error:
                raise StudyError(f"{path} cannot be written: {error.strerror}. {_FOLDER_ADVICE}") from error
        yield


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(0, "no permission")
    except OSError as error:
        raise StudyError(f"The study cannot be written to {folder}: {error.strerror}. {_FOLDER_ADVICE}") from error


_FOLDER_ADVICE: Final = "Free some space or fix its permissions, or give another folder: --study"


def _check_space(folder: Path, runs: int) -> None:
    free = shutil.disk_usage(folder).free / 1e6
    if free < runs * MEGABYTES_PER_RUN:
        raise StudyError(
            f"{runs} runs may need {runs * MEGABYTES_PER_RUN} MB in {folder}, but its disk has {free:.0f} MB left. "
            f"{_FOLDER_ADVICE}"
        )


def _check_unchanged(recipes: Mapping[str, Recipe], runs: Sequence[Run]) -> None:
    """Runs of what a recipe was and of what it is now must not stand in one table."""
    for name, recipe in recipes.items():
        stale = [run for run in runs if run.name == name and run.recipe_sha256 != _sha256(recipe)]
        if not stale:
            continue
        now = json.loads(json.dumps(recipe.to_data()))
        before = stale[0].recipe
        changed = [key for key in {**before, **now} if key not in _ABOUT and before.get(key) != now.get(key)]
        raise StudyError(
            f"{name} has changed ({', '.join(changed)}) since {len(stale)} of its runs in {stale[0].file.parent} were "
            f"made, for instance seed {stale[0].seed}. Delete that folder, or give another one for the study: --study"
        )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# The runs


@dataclass(frozen=True)
class _Process:
    recipe: Recipe
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    started: float

    @classmethod
    def start(cls, recipe: Recipe, folder: Path) -> _Process:
        # Not a pipe, which a talkative framework fills.
        output = tempfile.TemporaryFile()  # noqa: SIM115  # `close` does
        process = subprocess.Popen(
            [sys.executable, "-c", _RUN, recipe.framework, str(folder)],
            env={**os.environ, **_ONE_THREAD_NO_GPU},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has failed already, and will be asked why
            process.stdin.write(json.dumps(recipe.to_data()).encode() + b"\n")
            process.stdin.flush()  # and stays open: see _end_with_parent
        return cls(recipe, process, output, time.perf_counter())

    def close(self) -> None:
        """Kills it if it still runs."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.output.close()

    def check(self) -> None:
        """Raises StudyError if it failed."""
        status = self.process.returncode
        if status == 0:
            return
        self.output.seek(0)
        said = self.output.read().decode(errors="replace").strip()[-LAST_WORDS:]
        how = f"was killed by signal {-status}" if status < 0 else f"failed (exit {status})"
        if status == -signal.SIGKILL:
            how += ", as happens where memory runs out (then try fewer --jobs)"
        raise StudyError(
            f"{self.recipe.name} with seed {self.recipe.seed} {how}. The runs finished so far are kept; the same "
            f"command goes on from there. " + (f"It said:\n{said}" if said else "It said nothing.")
        )


def _run_all(
    recipes: Sequence[Recipe],
    folder: Path,
    jobs: int,
    *,
    total: int,
    kept: Sequence[Run],
    on_done: Callable[[Progress], None],
) -> None:
    """Runs `recipes`, each with its seed, `jobs` at once; raises what the first that failed said, once the others end."""
    waiting, under_way = deque(recipes), list[_Process]()
    took: dict[str, list[float]] = {}  # recipe -> seconds of each finished run
    for run in kept:
        took.setdefault(run.name, []).append(run.train_seconds + run.import_seconds)
    failure: StudyError | None = None
    done = total - len(recipes)

    def report(run: Run | None) -> None:
        left = [recipe.name for recipe in waiting]
        elapsed = [(one.recipe.name, time.perf_counter() - one.started) for one in under_way]
        seconds = estimate_seconds_left(left, elapsed, took, jobs=jobs)
        on_done(Progress(done=done, total=total, seconds_left=seconds, run=run))

    try:
        report(None)
        while under_way or (waiting and failure is None):
            while waiting and failure is None and len(under_way) < jobs:
                under_way.append(_Process.start(waiting.popleft(), folder))
            time.sleep(POLL_SECONDS)
            for one in [one for one in under_way if one.process.poll() is not None]:
                try:
                    one.check()
                except StudyError as error:
                    failure = failure or error
                under_way.remove(one)
                one.close()
                if one.process.returncode == 0:
                    done += 1
                    took.setdefault(one.recipe.name, []).append(time.perf_counter() - one.started)
                    report(_read_run(_file(folder, one.recipe.name, one.recipe.seed)))
    finally:
        for one in under_way:
            one.close()
    if failure is not None:
        raise failure


def estimate_seconds_left(
    waiting: Sequence[str],
    under_way: Sequence[tuple[str, float]],
    took: Mapping[str, Sequence[float]],
    *,
    jobs: int,
) -> float | None:
    """How long a study still takes; None if nothing is known.

    A recipe not seen yet is taken for the mean of the others, and a run that is overdue for nearly done.

    Args:
        waiting: the recipe of each run not started.
        under_way: the recipe of each run that is, and the seconds since its start.
        took: recipe -> the seconds of each finished run.
        jobs: runs at once.
    """
    if not waiting and not under_way:
        return 0.0
    means = {name: sum(seconds) / len(seconds) for name, seconds in took.items() if seconds}
    if not means:
        return None
    unseen = sum(means.values()) / len(means)
    parts = [means.get(name, unseen) for name in waiting]
    parts += [max(means.get(name, unseen) - elapsed, elapsed / 10) for name, elapsed in under_way]
    return max(max(parts), sum(parts) / jobs)


# In the process of one run


def run_here(study: str, *, import_seconds: float) -> None:
    """Does the run whose recipe comes as a line of JSON on standard input, which must stay open meanwhile."""
    recipe = Recipe.from_data(json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _do_run(recipe, Path(study), import_seconds)
    except SamedigitError as error:
        sys.exit(str(error))


def _end_with_parent() -> None:
    """Standard input ends when the process that holds its other side does, killed or not; nobody writes to it."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def _do_run(recipe: Recipe, study: Path, import_seconds: float) -> None:
    trainer = trainers.load_trainer(recipe.framework)
    split, test_images = split_for(recipe), mnist.test_images()
    first_prediction_seconds = _time_first_prediction(trainer, recipe)
    history: list[Epoch] = []
    model = trainer.train(recipe, split, device=CPU, on_epoch=history.append)
    arrays = {"probabilities": trainer.predict(model, recipe, test_images.images)}  # [10000, 10]
    if recipe.validation_fraction > 0:
        arrays["held_out_probabilities"] = trainer.predict(model, recipe, split.held_out.images)  # [M, 10]
    score = Score.of(arrays["probabilities"], test_images.labels)
    file = _file(study, recipe.name, recipe.seed)
    run = Run(
        recipe=recipe.to_data(),
        recipe_sha256=_sha256(recipe),
        framework=recipe.framework,
        seed=recipe.seed,
        correct=score.correct,
        total=score.total,
        history=tuple(history),
        held_out=split.held_out_is,
        train_seconds=sum(epoch.seconds for epoch in history),
        import_seconds=import_seconds,
        first_prediction_seconds=first_prediction_seconds,
        peak_memory_mb=_peak_memory_mb(),
        device=str(CPU),
        threads=1,
        versions=versions(),
        machine=machine(),
        finished_at=datetime.now(UTC).isoformat(timespec="microseconds"),
        file=file.with_suffix(".npz"),
    )
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **{name: np.asarray(array, np.float32) for name, array in arrays.items()})
    fields = dataclasses.asdict(run)
    del fields["file"]
    _put(packed.getvalue(), run.file)
    _put(json.dumps(fields, indent=1).encode(), file)


def _time_first_prediction(trainer: Trainer, recipe: Recipe) -> float:
    """Before the training, which would warm everything up."""
    held = [arrays(layer, shape) for layer, shape in with_inputs(recipe.network)]
    zeros = [{name: np.zeros(shape, np.float32) for name, shape in layer.items()} for layer in held if layer]
    image = mnist.test_images().images[:1]
    started = time.perf_counter()
    trainer.predict(trainer.with_weights(recipe, zeros), recipe, image)
    return time.perf_counter() - started


def _peak_memory_mb() -> float:
    """Of this process. Linux's getrusage gives the largest of this and of what the parent held when it started us."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def _put(contents: bytes, path: Path) -> None:
    """Writes beside, then renames: nobody ever reads half a file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            with open(beside, "wb") as file:
                file.write(contents)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StudyError(f"{path} cannot be written: {error.strerror}. {_FOLDER_ADVICE}") from error
