"""What is served, and how that changes: in one worker, and in several that share a folder. Real models and files, no server."""

from __future__ import annotations

import asyncio
import gc
import logging
import shutil
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import python
from small_models import alter, keep

from digits import store
from digits.contract import Probabilities
from digits.errors import ModelDamaged, ModelNotFound, SettingError
from digits.exported import export
from digits.store import StoredModel
from runtimes.device import CPU
from serving.choice import Chosen, choose, find
from serving.errors import Kind, RequestError
from serving.messages import Exchange, Head
from serving.models import ServedModels
from serving.opening import Opened, open_model
from serving.settings import Settings, read_settings
from serving.workers import RUN_FOLDER, Wanted, Workers, make_run_folder, run_folder


def settings(**more: str) -> Settings:
    return read_settings(
        {"SAMEDIGIT_BACKENDS": "numpy", **{f"SAMEDIGIT_{name.upper()}": value for name, value in more.items()}}
    )


def opened_models(**more: str) -> ServedModels:
    models = ServedModels(settings(**more))
    models.open()
    return models


def ask(opened: Opened) -> asyncio.Future[Probabilities | RequestError]:
    """Queues one image for this model."""
    answered: asyncio.Future[Probabilities | RequestError] = asyncio.get_running_loop().create_future()
    head = Head("POST", b"/", "/", "", {}, http_1_0=False, length=0, keeps=True, expects_continue=False)
    exchange = Exchange(head, address="", port="data", reply=lambda *_: None)
    opened.batcher.submit(np.zeros((1, 28, 28), np.uint8), answered.set_result, exchange=exchange)
    return answered


async def digit_of(opened: Opened) -> int:
    outcome = await ask(opened)
    assert not isinstance(outcome, RequestError), outcome
    return int(outcome[0].argmax())


async def refused(call: Awaitable[Any]) -> RequestError:
    with pytest.raises(RequestError) as found:
        await call
    return found.value


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def versions_of(models: ServedModels) -> dict[str, list[str]]:
    return {opened.name: models.versions(opened.name) for opened in models.all()}


@asynccontextmanager
async def kept_up(*all_models: ServedModels) -> Any:
    """As a server does it, beside its requests."""
    tasks = [asyncio.create_task(models.keep_up()) for models in all_models]
    try:
        yield
    finally:
        for task in tasks:
            assert not task.done() or task.exception() is None
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# What is to be served


def test_without_names_the_served_version_of_every_recipe_is_chosen(empty_home: Path) -> None:
    keep("a", 1, day=1)
    newer, other = keep("a", 2, day=2), keep("b", 3)
    keep("b", 4, day=9, departures=("epochs",))
    assert choose(settings()) == [Chosen(newer, "numpy", CPU), Chosen(other, "numpy", CPU)]
    assert [one.name for one in choose(settings())] == ["a.numpy", "b.numpy"]


def test_with_names_these_are_chosen_be_they_old_or_departed(empty_home: Path) -> None:
    old = keep("a", 1, day=1)
    keep("a", 2, day=2)
    departed = keep("b", 4, departures=("epochs",))
    chosen = choose(settings(models=f"{old.tag},{departed.tag}"))
    assert [one.model for one in chosen] == [old, departed]


def test_a_version_that_is_open_elsewhere_is_found_though_it_is_not_chosen(empty_home: Path) -> None:
    old = keep("a.b", 1, day=1)
    keep("a.b", 2, day=2)
    assert find("a.b.numpy", old.version, settings()) == Chosen(old, "numpy", CPU)
    with pytest.raises(ModelNotFound):
        find("a.b.numpy", "missing", settings())


def test_an_altered_file_is_neither_checked_nor_opened(empty_home: Path) -> None:
    model = keep("a", 1)
    open_model(Chosen(model, "numpy", CPU), settings())
    alter(model)
    with pytest.raises(ModelDamaged):
        open_model(Chosen(model, "numpy", CPU), settings())
    with pytest.raises(ModelDamaged):
        ServedModels(settings()).check()


# What is open


@pytest.mark.parametrize("order", ["old first", "new first"])
def test_of_several_versions_the_newest_answers_however_they_are_named(order: str, empty_home: Path) -> None:
    old, new = keep("a", 1, day=1), keep("a", 2, day=2)
    tags = [old.tag, new.tag] if order == "old first" else [new.tag, old.tag]
    models = opened_models(models=",".join(tags))
    assert models.versions("a.numpy") == [new.version, old.version]
    assert models.named("a.numpy").model == models.find("numpy", "a").model == new
    assert models.find("numpy", "a:latest").model == new
    assert models.named("a.numpy", old.version).model == models.find("numpy", old.tag).model == old


def test_without_a_name_the_most_accurate_model_answers_and_not_the_first_or_the_last(empty_home: Path) -> None:
    keep("a", 1, correct=9100)
    keep("b", 2, correct=9500)
    keep("c", 3, correct=9300)
    assert opened_models().find("numpy", None).model.recipe == "b"


def test_without_a_name_the_model_answers_that_reads_other_digits_best_whatever_it_reads_of_mnist(
    empty_home: Path,
) -> None:
    keep("a", 1, correct=9969, beyond=(9000, 7000))
    keep("b", 2, correct=9960, beyond=(8800, 9000))
    keep("c", 3, correct=9990)  # never asked to read any
    keep("d", 4, correct=9950, beyond=(8900, 8900))
    assert opened_models().find("numpy", None).model.recipe == "b"


def test_the_server_is_ready_from_its_opening_to_its_draining_while_anything_is_served(empty_home: Path) -> None:
    async def live() -> None:
        keep("a", 1)
        models = ServedModels(settings())
        assert models.why_not_ready() == "The models are being opened."
        models.open()
        assert models.why_not_ready() is None
        await models.unload("a.numpy")
        assert models.why_not_ready() == "Every model was unloaded."
        await models.load("a.numpy")
        assert models.why_not_ready() is None
        models.drain()
        assert models.why_not_ready() == "The server is being stopped."
        assert await digit_of(models.named("a.numpy")) == 1

    asyncio.run(live())


# load and unload


def test_load_serves_the_new_version_and_the_old_one_answers_what_it_was_asked_and_is_gone(empty_home: Path) -> None:
    async def live() -> None:
        old = keep("a", 1, day=1)
        models = opened_models()
        before = ask(models.named("a.numpy"))
        batcher = weakref.ref(models.named("a.numpy").batcher)
        runtime = weakref.ref(models.named("a.numpy").batcher._runtime)
        new = keep("a", 2, day=2)
        loading = asyncio.create_task(models.load("a.numpy"))
        outcome = await before
        assert not isinstance(outcome, RequestError)
        assert outcome[0].argmax() == 1
        await loading
        assert versions_of(models) == {"a.numpy": [new.version]}
        assert await digit_of(models.named("a.numpy")) == 2
        assert models.find("numpy", None).model == new
        assert (await refused(_named(models, old.version))).kind is Kind.UNKNOWN
        assert batcher() is None
        assert runtime() is None

    asyncio.run(live())


async def _named(models: ServedModels, version: str) -> None:
    models.named("a.numpy", version)


def test_what_waits_for_a_model_when_it_is_closed_is_answered_by_it(empty_home: Path) -> None:
    async def live() -> None:
        keep("a", 1)
        models = opened_models()
        opened = models.named("a.numpy")
        await models.unload("a.numpy")
        assert await digit_of(opened) == 1

    asyncio.run(live())


def test_what_is_open_is_not_hidden_from_the_garbage_collector(empty_home: Path) -> None:
    """Frameworks' models hold cycles: frozen, a closed one would stay for ever. What the frameworks import is frozen."""
    keep("a", 1)
    runtime = opened_models().named("a.numpy").batcher._runtime
    assert any(found is runtime for found in gc.get_objects())  # which lists no frozen ones
    assert gc.get_freeze_count() > 10_000


def test_load_of_what_is_open_already_keeps_it_as_it_is(empty_home: Path) -> None:
    async def live() -> None:
        keep("a", 1)
        models = opened_models()
        opened = models.named("a.numpy")
        await models.load("a.numpy")
        assert models.named("a.numpy") is opened

    asyncio.run(live())


def test_an_altered_file_is_refused_at_load_and_what_was_served_is_served_on(empty_home: Path) -> None:
    async def live() -> None:
        old = keep("a", 1, day=1)
        models = opened_models()
        new = keep("a", 2, day=2)
        alter(new)
        error = await refused(models.load("a.numpy"))
        assert error.kind is Kind.FAILED
        assert f"{new.path('numpy')} is not the file that was stored: expected sha256" in str(error)
        assert versions_of(models) == {"a.numpy": [old.version]}
        assert await digit_of(models.named("a.numpy")) == 1
        assert models.why_not_ready() is None

    asyncio.run(live())


def test_the_others_stay_when_one_is_loaded_or_unloaded(empty_home: Path) -> None:
    async def live() -> None:
        for digit, recipe in enumerate(("a", "b", "c")):
            keep(recipe, digit)
        models = opened_models()
        others = models.named("a.numpy"), models.named("c.numpy")
        await models.unload("b.numpy")
        assert list(versions_of(models)) == ["a.numpy", "c.numpy"]
        assert {entry["name"]: entry["state"] for entry in await models.index()} == {
            "a.numpy": "READY",
            "b.numpy": "UNAVAILABLE",
            "c.numpy": "READY",
        }
        assert (await refused(models.unload("b.numpy"))).kind is Kind.UNKNOWN
        await models.load("b.numpy")
        assert sorted(versions_of(models)) == ["a.numpy", "b.numpy", "c.numpy"]
        assert (models.named("a.numpy"), models.named("c.numpy")) == others

    asyncio.run(live())


# The store is watched


def test_a_plain_folder_is_watched_and_loaded_from_as_the_store_is(empty_home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    first = keep("a", 1, day=1)
    export([first], folder)
    second = keep("a", 2, day=2)

    async def run() -> None:
        models = opened_models(watch="on", model_folder=str(folder))
        async with kept_up(models):
            assert await digit_of(models.named("a.numpy")) == 1
            export([second, keep("b", 7)], folder)
            await until(lambda: versions_of(models) == {"a.numpy": [second.version], "b.numpy": [models_of_b()]})
            assert await digit_of(models.named("a.numpy")) == 2
            (folder / "a" / store.PROMOTED).write_text(first.version)
            await until(lambda: versions_of(models)["a.numpy"] == [first.version])
        await models.unload("b.numpy")
        assert list(versions_of(models)) == ["a.numpy"]
        await models.load("b.numpy")
        assert await digit_of(models.named("b.numpy")) == 7

    def models_of_b() -> str:
        return store.find_model("b", folder=folder).version

    asyncio.run(run())


def test_a_version_whose_files_come_after_its_card_is_served_once_they_are_there(
    empty_home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    first, second = keep("a", 1, day=1), keep("a", 2, day=2)
    export([first], folder)
    export([second], tmp_path / "whole")
    whole, half = tmp_path / "whole/a" / second.version, folder / "a" / second.version

    async def run() -> None:
        models = opened_models(watch="on", model_folder=str(folder))
        async with kept_up(models):
            half.mkdir()
            shutil.copy(whole / store.CARD, half)
            before = models._store_seen
            await until(lambda: models._store_seen != before)  # which was no use
            await asyncio.sleep(0.1)
            assert versions_of(models) == {"a.numpy": [first.version]}
            shutil.copy(whole / "model.npz", half)
            await until(lambda: versions_of(models) == {"a.numpy": [second.version]})

    asyncio.run(run())


def test_what_is_promoted_trained_or_deleted_is_taken_up_by_itself(
    empty_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def live() -> None:
        old, other, unloaded = keep("a", 1, day=1), keep("b", 5), keep("c", 6)
        models = opened_models(watch="on")
        async with kept_up(models):
            await models.unload("c.numpy")
            new, added = keep("a", 2, day=2), keep("d", 7)
            await until(
                lambda: versions_of(models).get("a.numpy") == [new.version] and "d.numpy" in versions_of(models)
            )
            assert await digit_of(models.named("a.numpy")) == 2
            store.promote(old.tag)
            shutil.rmtree(other.folder.parent)
            keep("c", 8, day=3)
            await until(lambda: versions_of(models)["a.numpy"] == [old.version])
            await until(lambda: versions_of(models) == {"a.numpy": [old.version], "d.numpy": [added.version]})
            assert unloaded.recipe == "c"  # it was unloaded, and stays so until it is loaded
            await models.load("c.numpy")
            assert await digit_of(models.named("c.numpy")) == 8

    asyncio.run(live())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_version_that_cannot_be_opened_is_said_once_and_keeps_nothing_else_back(
    empty_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def live() -> None:
        old = keep("a", 1, day=1)
        models = opened_models(watch="on")
        store.promote(old.tag)
        async with kept_up(models):
            broken = keep("a", 2, day=2)
            store.promote(broken.tag)
            alter(broken)
            added = keep("b", 3)
            await until(lambda: "b.numpy" in versions_of(models))
            await asyncio.sleep(2.2)  # two more looks
            assert versions_of(models) == {"a.numpy": [old.version], "b.numpy": [added.version]}

    asyncio.run(live())
    (said,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said.startswith("a.numpy has changed in the store, and is served as it was: ")
    assert "is not the file that was stored" in said


def test_a_store_that_is_emptied_leaves_served_what_was(empty_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def live() -> None:
        model = keep("a", 1)
        models = opened_models(watch="on")
        async with kept_up(models):
            shutil.rmtree(model.folder.parent)
            await until(lambda: bool(caplog.records))
            assert await digit_of(models.named("a.numpy")) == 1

    with caplog.at_level(logging.ERROR):
        asyncio.run(live())
    assert caplog.records[0].getMessage().startswith("The store has changed, and what is served has not: ")


# Several workers


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of several workers, all in this process: each is a `ServedModels` of its own."""
    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.setenv(RUN_FOLDER, str(folder))
    return folder


def workers(number: int, **more: str) -> list[ServedModels]:
    return [opened_models(workers="3", **more) for _ in range(number)]


def leave(models: ServedModels) -> None:
    """As if its process had been killed."""
    assert models._workers is not None
    models._workers.leave()


def test_a_change_has_reached_every_worker_when_it_is_answered(shared: Path, empty_home: Path) -> None:
    async def live() -> None:
        keep("a", 1, day=1)
        keep("b", 5)
        every = workers(3)
        async with kept_up(*every):
            keep("a", 2, day=2)
            await every[0].load("a.numpy")
            assert [await digit_of(models.named("a.numpy")) for models in every] == [2, 2, 2]
            await every[1].unload("b.numpy")
            assert [list(versions_of(models)) for models in every] == [["a.numpy"]] * 3
            assert (await refused(every[2].unload("b.numpy"))).kind is Kind.UNKNOWN
            await every[2].load("b.numpy")
            assert [list(versions_of(models)) for models in every] == [["a.numpy", "b.numpy"]] * 3

    asyncio.run(live())


def test_an_altered_file_changes_nothing_in_any_worker(shared: Path, empty_home: Path) -> None:
    async def live() -> None:
        old = keep("a", 1, day=1)
        every = workers(2)
        async with kept_up(*every):
            alter(keep("a", 2, day=2))
            assert (await refused(every[0].load("a.numpy"))).kind is Kind.FAILED
            await asyncio.sleep(0.2)
            assert [versions_of(models) for models in every] == [{"a.numpy": [old.version]}] * 2

    asyncio.run(live())


def test_a_worker_that_cannot_follow_is_told_of_and_serves_what_it_did_until_the_next_load(
    shared: Path, empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def live() -> None:
        old = keep("a", 1, day=1)
        able, unable = workers(2)
        opens = unable._open

        def fail(wanted: Wanted) -> list[Opened]:
            raise ModelDamaged("no room")

        monkeypatch.setattr(unable, "_open", fail)
        async with kept_up(able, unable):
            new = keep("a", 2, day=2)
            error = await refused(able.load("a.numpy"))
            assert error.kind is Kind.FAILED
            assert str(error) == "1 of 2 workers could not take up the change and serve what they did: no room"
            assert [versions_of(one)["a.numpy"] for one in (able, unable)] == [[new.version], [old.version]]
            monkeypatch.setattr(unable, "_open", opens)
            await able.load("a.numpy")
            assert versions_of(unable)["a.numpy"] == [new.version]

    asyncio.run(live())


def test_a_worker_that_was_killed_is_not_waited_for_and_its_successor_has_what_is_wanted(
    shared: Path, empty_home: Path
) -> None:
    async def live() -> None:
        keep("a", 1, day=1)
        keep("b", 5)
        one, killed = workers(2)
        leave(killed)
        async with kept_up(one):
            new = keep("a", 2, day=2)
            await one.load("a.numpy")
            await one.unload("b.numpy")
            keep("a", 3, day=3)  # which nobody has loaded
            (successor,) = await asyncio.to_thread(workers, 1)
            assert versions_of(successor) == {"a.numpy": [new.version]}
            async with kept_up(successor):
                await successor.load("b.numpy")
            assert sorted(versions_of(one)) == ["a.numpy", "b.numpy"]
        assert len(list(shared.glob("*.worker"))) == 2  # what the killed one left is gone

    asyncio.run(live())


def test_a_worker_that_does_not_answer_is_waited_for_and_then_counted(shared: Path) -> None:
    async def live() -> None:
        one, silent = Workers(shared), Workers(shared)
        silent.acknowledge(1)
        one.acknowledge(2)
        error = await refused(one.all_have(2, within_seconds=0.1))
        assert error.kind is Kind.FAILED
        assert str(error).startswith("1 of 2 workers have not taken up the change within 0.1 s")
        silent.acknowledge(2)
        await one.all_have(2, within_seconds=0.1)
        silent.acknowledge(1)
        silent.leave()
        await one.all_have(2, within_seconds=0.1)

    asyncio.run(live())


def test_changes_that_come_at_once_through_all_workers_are_all_made(shared: Path, empty_home: Path) -> None:
    async def live() -> None:
        recipes = "abcdef"
        for recipe in recipes:
            keep(recipe, 1)
        every = workers(3)
        async with kept_up(*every):
            await asyncio.gather(*(every[i % 3].unload(f"{recipe}.numpy") for i, recipe in enumerate(recipes[:5])))
            assert [list(versions_of(models)) for models in every] == [["f.numpy"]] * 3
            loads: list[Coroutine[Any, Any, None]] = [
                every[i % 3].load(f"{recipe}.numpy") for i, recipe in enumerate(recipes[:5])
            ]
            await asyncio.gather(*loads)
            assert [sorted(versions_of(models)) for models in every] == [[f"{recipe}.numpy" for recipe in recipes]] * 3
            wanted = Workers(shared).wanted()
            assert wanted is not None
            assert wanted.generation == 11

    asyncio.run(live())


def test_workers_that_watch_agree_though_each_sees_the_store_by_itself(shared: Path, empty_home: Path) -> None:
    async def live() -> None:
        keep("a", 1, day=1)
        every = workers(2, watch="on")
        async with kept_up(*every):
            new = keep("a", 2, day=2)
            await until(lambda: all(versions_of(models) == {"a.numpy": [new.version]} for models in every))
            await asyncio.sleep(1.2)
            wanted = Workers(shared).wanted()
            assert wanted is not None
            assert wanted.generation == 2  # one of them made the change, the other found it made

    asyncio.run(live())


def test_a_model_that_is_stored_no_more_does_not_keep_a_new_worker_from_serving_the_others(
    shared: Path, empty_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone: StoredModel = keep("a", 1)
    keep("b", 5)
    opened_models(workers="2")
    shutil.rmtree(gone.folder.parent)
    assert list(versions_of(opened_models(workers="2"))) == ["b.numpy"]
    assert "a.numpy is served by the other workers, and not by this new one: No model" in caplog.text


def test_what_is_wanted_keeps_its_place_in_the_order() -> None:
    wanted = Wanted(3, (("a", "1"), ("b", "1"), ("b", "2"), ("c", "1")), frozenset("x"))
    assert wanted.replaced("b", ["3"]) == Wanted(4, (("a", "1"), ("b", "3"), ("c", "1")), frozenset("x"))
    assert wanted.replaced("x", ["1"]).models == (*wanted.models, ("x", "1"))
    assert wanted.replaced("x", ["1"]).unloaded == frozenset()
    assert wanted.replaced("c", [], unloaded=True) == Wanted(4, wanted.models[:3], frozenset("xc"))


def test_the_folder_of_several_workers_is_private_and_goes_with_its_maker() -> None:
    code = """
from serving.settings import read_settings
from serving.workers import make_run_folder, run_folder
make_run_folder(read_settings({"SAMEDIGIT_WORKERS": "2"}))
print(run_folder(), oct(run_folder().stat().st_mode), list(run_folder().iterdir()))
"""
    folder, mode, contents = python(code).split()
    assert (mode, contents) == ("0o40700", "[]")
    assert folder
    assert not Path(folder).exists()


def test_one_worker_has_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUN_FOLDER, "")  # so that it is as it was after the test
    make_run_folder(settings(workers="1"))
    with pytest.raises(SettingError, match="Several workers share a folder"):
        run_folder()
