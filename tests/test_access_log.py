"""The access log: what it says, and that it holds up nobody."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from exchanges import exchange, inference

from digits.errors import SettingError
from serving.access_log import MAX_BYTES, MAX_TEXT, AccessLog, open_access_log
from serving.messages import Exchange
from serving.settings import read_settings

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01".encode()


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def logged(path: Path, came: Exchange, status: int = 200, answer_bytes: int = 0, trace: str = "") -> dict[str, Any]:
    access_log = AccessLog(path, 1)
    access_log.answered(came, status, answer_bytes, trace)
    access_log.close()
    [line] = lines_of(path)
    return line


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_an_answer_is_one_line_that_says_who_asked_for_what_and_how_long_it_took(tmp_path: Path) -> None:
    came = inference(images=3, took_ns=400_000_000, queue_ns=30_000, run_ns=20_000, headers={b"user-agent": b"curl/8"})
    came.key = "0a1b2c3d"
    line = logged(tmp_path / "log", came, 200, 123)
    said, took = line.pop("time"), line.pop("duration_ms")
    assert line == {
        "address": "192.0.2.7",
        "port": "data",
        "method": "POST",
        "path": "/v2/models/torch-relu.onnx/infer",
        "status": 200,
        "bytes": 123,
        "model": "torch-relu.onnx",
        "version": "abc",
        "images": 3,
        "queue_ms": 0.03,
        "run_ms": 0.02,
        "key": "0a1b2c3d",
        "user_agent": "curl/8",
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", said)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(said)) < timedelta(minutes=1)
    assert 400 <= took < 10_400


def test_each_line_has_its_own_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access_log = AccessLog(tmp_path / "log", 1)
    for ns in (1_792_000_000_000_000_000, 1_792_000_000_999_999_999, 1_792_000_001_007_000_000):
        monkeypatch.setattr(time, "time_ns", lambda ns=ns: ns)
        access_log.answered(exchange(), 200, 0)
    access_log.close()
    assert [line["time"] for line in lines_of(tmp_path / "log")] == [
        "2026-10-14T17:46:40.000Z",
        "2026-10-14T17:46:40.999Z",
        "2026-10-14T17:46:41.007Z",
    ]


def test_what_no_model_answered_says_nothing_of_one(tmp_path: Path) -> None:
    line = logged(tmp_path / "log", exchange(method="GET", path="/models"))
    assert set(line) == {"time", "address", "port", "method", "path", "status", "bytes", "duration_ms"}


def test_a_line_bears_the_traces_id_or_else_that_of_the_client(tmp_path: Path) -> None:
    with_parent = {b"traceparent": TRACEPARENT}
    assert logged(tmp_path / "1", exchange(headers=with_parent))["trace"] == TRACE
    assert logged(tmp_path / "2", exchange(headers=with_parent), trace="f" * 32)["trace"] == "f" * 32
    for number, malformed in enumerate((b"", b"00-xyz", TRACEPARENT + b"1", TRACEPARENT.upper())):
        assert "trace" not in logged(tmp_path / f"bad-{number}", exchange(headers={b"traceparent": malformed}))


@pytest.mark.parametrize(
    "hostile", ['\x00\x1b[2J\r\n{"forged": 1}"\\', "\x7f", "\x85\x9b", "\u2028\u202e", "é", "\ud800\x7f"], ids=ascii
)
def test_what_a_client_wrote_cannot_end_a_line_nor_reach_a_terminal_as_it_is(tmp_path: Path, hostile: str) -> None:
    agent = hostile.encode("latin-1", "replace")
    came = exchange(method=f"GET{hostile}", path=f"/{hostile}", headers={b"user-agent": agent})
    path = tmp_path / "log"
    access_log = AccessLog(path, 1)
    access_log.answered(came, 404, 0)
    access_log.close()
    raw = path.read_bytes()
    assert raw.count(b"\n") == 1
    assert re.fullmatch(rb"[ -~]+\n", raw)
    line = json.loads(raw)  # orjson reads no half of a surrogate pair
    assert (line["method"], line["path"], line["user_agent"]) == (
        f"GET{hostile}",
        f"/{hostile}",
        agent.decode("latin-1"),
    )


def test_what_a_client_wrote_is_cut(tmp_path: Path) -> None:
    long = "x" * 3000
    line = logged(tmp_path / "log", exchange(method=long, path=long, headers={b"user-agent": long.encode()}))
    assert {len(line["method"]), len(line["path"]), len(line["user_agent"])} == {MAX_TEXT}


def test_a_sample_leaves_answers_out_and_no_refusal_nor_failure(tmp_path: Path) -> None:
    random.seed(1)
    access_log = AccessLog(tmp_path / "log", 0.25)
    for _ in range(1000):
        access_log.answered(exchange(), 200, 0)
    for status in (400, 404, 499, 503, 500):
        access_log.answered(exchange(), status, 0)
    access_log.close()
    statuses = [line["status"] for line in lines_of(tmp_path / "log")]
    assert [status for status in statuses if status >= 400] == [400, 404, 499, 503, 500]
    assert 200 <= statuses.count(200) <= 300


def test_without_a_sample_every_answer_is_logged_in_order(tmp_path: Path) -> None:
    access_log = AccessLog(tmp_path / "log", 1)
    for number in range(300):
        access_log.answered(exchange(), 200, number)
        access_log.flush()
    access_log.close()
    assert [line["bytes"] for line in lines_of(tmp_path / "log")] == list(range(300))


def test_a_flush_writes_what_came(tmp_path: Path) -> None:
    path = tmp_path / "log"
    access_log = AccessLog(path, 1)
    access_log.answered(exchange(), 200, 0)
    assert path.read_bytes() == b""
    access_log.flush()
    eventually(lambda: path.read_bytes().endswith(b"\n"))
    access_log.close()
    assert len(lines_of(path)) == 1


@pytest.mark.parametrize("rotate", [lambda path: path.rename(f"{path}.1"), Path.unlink], ids=["renamed", "removed"])
def test_after_a_rotation_the_log_goes_on_in_a_new_file(tmp_path: Path, rotate: Callable[[Path], object]) -> None:
    path = tmp_path / "log"
    access_log = AccessLog(path, 1)
    access_log.answered(exchange(), 200, 1)
    access_log.flush()
    eventually(lambda: path.read_bytes().endswith(b"\n"))
    rotate(path)
    access_log.answered(exchange(), 200, 2)
    access_log.close()
    assert [line["bytes"] for line in lines_of(path)] == [2]


def test_a_file_that_is_emptied_goes_on_from_its_beginning(tmp_path: Path) -> None:
    """As logrotate's copytruncate does."""
    path = tmp_path / "log"
    access_log = AccessLog(path, 1)
    access_log.answered(exchange(), 200, 1)
    access_log.flush()
    eventually(lambda: path.read_bytes().endswith(b"\n"))
    os.truncate(path, 0)
    access_log.answered(exchange(), 200, 2)
    access_log.close()
    assert [line["bytes"] for line in lines_of(path)] == [2]


def test_workers_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logs = [AccessLog(path, 1), AccessLog(path, 1)]
    for number in range(100):
        for access_log in logs:
            access_log.answered(exchange(), 200, number)
            access_log.flush()
    for access_log in logs:
        access_log.close()
    assert sorted(line["bytes"] for line in lines_of(path)) == sorted([*range(100)] * 2)


def test_a_pipe_that_nobody_empties_holds_up_nobody_and_costs_lines_not_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    access_log = AccessLog(path, 1)
    came = exchange(path="x" * 1000)
    for _ in range(100):  # more than a pipe holds
        access_log.answered(came, 200, 0)
    access_log.flush()  # and its thread is stuck
    came.address = "192.0.2.8"
    for number in range(MAX_BYTES // 1000):  # a line is longer than that
        access_log.answered(came, 200, number)
    access_log.flush()
    assert not caplog.records
    os.set_blocking(reader, True)
    read: list[bytes] = []
    emptying = threading.Thread(target=lambda: read.extend(iter(lambda: os.read(reader, 1 << 20), b"")))
    emptying.start()
    access_log.close()
    emptying.join()
    os.close(reader)
    lines = [orjson.loads(line) for line in b"".join(read).splitlines()]
    kept = [line["bytes"] for line in lines if line["address"] == "192.0.2.8"]
    assert len(lines) == 100 + len(kept)
    assert kept == [*range(len(kept))]
    assert MAX_BYTES / 1400 < len(kept) < MAX_BYTES // 1000
    assert f"{MAX_BYTES // 1000 - len(kept)} lines of the access log were lost" in caplog.text


def test_what_is_written_in_part_is_written_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
    assert logged(tmp_path / "log", exchange(path="/models"))["path"] == "/models"


def test_what_was_written_makes_room_for_more(tmp_path: Path) -> None:
    path = tmp_path / "log"
    access_log = AccessLog(path, 1)
    came = exchange(path="\0" * MAX_TEXT)  # six bytes each
    lines = MAX_BYTES // (10 * MAX_TEXT)
    for written in (1, 2, 3):
        for _ in range(lines):
            access_log.answered(came, 200, 0)
        access_log.flush()
        eventually(lambda: path.read_bytes().count(b"\n") == written * lines)  # noqa: B023 called here
    access_log.close()
    assert path.stat().st_size > 1.5 * MAX_BYTES


def test_a_disk_that_is_full_costs_lines_and_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    access_log = AccessLog(Path("/dev/full"), 1)
    for _ in range(3):
        access_log.answered(exchange(), 200, 0)
        access_log.flush()
    access_log.close()
    assert [record.message for record in caplog.records] == [
        "The access log cannot be written: [Errno 28] No space left on device"
    ]


def test_standard_output_takes_the_log_too() -> None:
    code = (
        "from pathlib import Path; from exchanges import exchange; from serving.access_log import AccessLog\n"
        "log = AccessLog(None, 1); log.answered(exchange(), 200, 7); log.close(); print('after')"
    )
    tests = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"},
        capture_output=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert orjson.loads(first)["bytes"] == 7
    assert second == b"after"


def test_there_is_no_log_unless_the_settings_ask_for_one() -> None:
    assert open_access_log(read_settings({})) is None


def test_the_settings_name_file_and_sample(tmp_path: Path) -> None:
    settings = dataclasses.replace(read_settings({}), access_log=str(tmp_path / "log"), access_log_sample=1e-9)
    access_log = open_access_log(settings)
    assert access_log is not None
    access_log.answered(exchange(), 200, 0)
    access_log.answered(exchange(), 500, 0)
    access_log.close()
    assert [line["status"] for line in lines_of(tmp_path / "log")] == [500]


def test_a_file_that_cannot_be_written_stops_the_start_with_a_sentence(tmp_path: Path) -> None:
    unread = tmp_path / "pipe"
    os.mkfifo(unread)  # and does not wait for somebody to read it
    for path, why in (
        (tmp_path, "Is a directory"),
        (tmp_path / "no" / "log", "No such file or directory"),
        (unread, "No such device or address"),
    ):
        settings = dataclasses.replace(read_settings({}), access_log=str(path))
        with pytest.raises(SettingError) as raised:
            open_access_log(settings)
        assert str(raised.value) == (
            f"SAMEDIGIT_ACCESS_LOG takes a file that can be written, or - for standard output; {path}: {why}."
        )
