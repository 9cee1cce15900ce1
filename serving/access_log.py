"""The access log: one JSON object a line for each answer, or for a share of them; refusals and failures always.

Lines are kept until the next second and then written by a thread, since a disk or a pipe may make whoever writes wait.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import time
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Final

import orjson

from digits.errors import SettingError
from serving.messages import Exchange
from serving.settings import Settings

STANDARD_OUTPUT: Final = "-"
MAX_TEXT: Final = 1024  # characters of what a client wrote
MAX_BYTES: Final = 16 * 1024 * 1024  # of lines, kept while the file or pipe takes none; further ones are lost
CLOSE_SECONDS: Final = 2
TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?![0-9a-f])")

log = logging.getLogger("samedigit")


class AccessLog:
    """Belongs to one event loop. Workers may share a file: each writes whole lines at its end.

    Args:
        path: appended to, and opened anew once it was renamed or removed; None: standard output.
        sample: the share of answers below 400 that is logged, in (0, 1].

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path | None, sample: float) -> None:
        self._sample = sample
        self._lines: list[bytes] = []
        self._bytes = 0  # of these
        self._lost = 0
        self._second = -1
        self._second_text = ""
        self._writer = _Writer(path)

    def answered(self, exchange: Exchange, status: int, answer_bytes: int, trace: str = "") -> None:
        """Logs one answer, if it is one to be logged.

        Args:
            status: what was answered, or `metrics.GONE`.
            answer_bytes: of the answer's body.
            trace: its trace's id; empty: what the client's `traceparent` says, if it has one.
        """
        if status < 400 and self._sample < 1 and random.random() >= self._sample:
            return
        if self._bytes >= MAX_BYTES:
            self._lost += 1
            return
        head = exchange.head
        line: dict[str, str | int | float] = {
            "time": self._now(),
            "address": exchange.address,
            "port": exchange.port,
            "method": head.method[:MAX_TEXT],
            "path": head.path[:MAX_TEXT],
            "status": status,
            "bytes": answer_bytes,
            "duration_ms": (time.monotonic_ns() - exchange.began_ns) / 1e6,
        }
        if exchange.model:
            line["model"] = exchange.model
            line["version"] = exchange.version
        if exchange.picture_ns:
            line["picture_ms"] = exchange.picture_ns / 1e6
        if exchange.images:
            line["images"] = exchange.images
            line["queue_ms"] = exchange.queue_ns / 1e6
            line["run_ms"] = exchange.run_ns / 1e6
        if exchange.key is not None:
            line["key"] = exchange.key
        if (agent := head.headers.get(b"user-agent")) is not None:
            line["user_agent"] = agent[:MAX_TEXT].decode("latin-1")
        if not trace and (parent := head.headers.get(b"traceparent")) is not None:
            found = TRACEPARENT.match(parent)
            trace = found[1].decode() if found else ""
        if trace:
            line["trace"] = trace
        encoded = _encoded(line)
        self._lines.append(encoded)
        self._bytes += len(encoded)

    def _now(self) -> str:
        """RFC 3339, in UTC, to the millisecond."""
        second, ns = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{ns // 1_000_000:03d}Z"

    def flush(self) -> None:
        """Hands over what came since the last time, without waiting for it to be written. Due every second."""
        if not self._lines or self._writer.busy:
            return
        lines, self._lines, self._bytes = self._lines, [], 0
        if self._lost:
            log.warning("%d lines of the access log were lost: what takes them is too slow.", self._lost)
            self._lost = 0
        self._writer.write(b"".join(lines))

    def close(self) -> None:
        """Writes the rest. Waits for that, if not long."""
        self._writer.wait(CLOSE_SECONDS)
        self.flush()
        self._writer.close(CLOSE_SECONDS)


class _Writer:
    """A file, and the thread that writes to it: one piece at a time."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._descriptor = 1 if path is None else _open(path)
        self._pieces: SimpleQueue[bytes | None] = SimpleQueue()
        self._failed_before = False
        self.busy = False  # set here, unset by the thread
        self._thread = Thread(
            target=self._run, name="access-log", daemon=True
        )  # a pipe that is stuck must not hold the exit
        self._thread.start()

    def write(self, piece: bytes) -> None:
        self.busy = True
        self._pieces.put(piece)

    def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self.busy and time.monotonic() < end:
            time.sleep(0.005)

    def close(self, seconds: float) -> None:
        self._pieces.put(None)
        self._thread.join(seconds)
        if not self._thread.is_alive() and self._path is not None:
            os.close(self._descriptor)

    def _run(self) -> None:
        while (piece := self._pieces.get()) is not None:
            try:
                self._open_anew()
                while piece:
                    piece = piece[os.write(self._descriptor, piece) :]
                self._failed_before = False
            except OSError as error:
                if not self._failed_before:  # and not each second again
                    log.warning("The access log cannot be written: %s", error)
                self._failed_before = True
            self.busy = False

    def _open_anew(self) -> None:
        """After a rotation, which renames the file or removes it."""
        if self._path is None:
            return
        try:
            if os.path.samestat(self._path.stat(), os.fstat(self._descriptor)):
                return
        except FileNotFoundError:
            pass
        anew = _open(self._path)
        os.close(self._descriptor)
        self._descriptor = anew


def open_access_log(settings: Settings) -> AccessLog | None:
    """The log that the settings ask for; None where they do not.

    Raises:
        SettingError: its file cannot be written.
    """
    if settings.access_log is None:
        return None
    path = None if settings.access_log == STANDARD_OUTPUT else Path(settings.access_log)
    try:
        return AccessLog(path, settings.access_log_sample)
    except OSError as error:
        raise SettingError(
            f"SAMEDIGIT_ACCESS_LOG takes a file that can be written, or - for standard output; "
            f"{settings.access_log}: {error.strerror}."
        ) from error


def _open(path: Path) -> int:
    # Not blocking at first, or a named pipe that nobody reads would hold the start.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o640)
    os.set_blocking(descriptor, True)
    return descriptor


def _encoded(line: dict[str, str | int | float]) -> bytes:
    """One line of printable ASCII: a terminal obeys more than JSON must escape (DEL, C1, the marks of direction)."""
    try:
        encoded = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
        if encoded.isascii() and b"\x7f" not in encoded:
            return encoded
    except TypeError:  # half a surrogate pair
        pass
    return json.dumps(line, separators=(",", ":")).replace("\x7f", "\\u007f").encode() + b"\n"
