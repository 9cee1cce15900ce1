"""Keys: who may ask, how a key may come, and a file of keys that changes while the server runs."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import pytest

from digits.errors import SettingError
from serving.errors import Kind, RequestError
from serving.keys import Keys

FIRST = "first-key-0123456789"
SECOND = "second-key-0123456789"
THIRD = "third-key-0123456789"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def identity(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:8]


def refused(keys: Keys, headers: dict[bytes, bytes]) -> str:
    with pytest.raises(RequestError) as refusal:
        keys.check(headers)
    assert refusal.value.kind is Kind.UNAUTHENTICATED
    return str(refusal.value)


def knows(keys: Keys, key: str) -> bool:
    try:
        return keys.check({b"x-api-key": key.encode()}) == identity(key)
    except RequestError:
        return False


@pytest.mark.parametrize(
    "headers", [{}, {b"authorization": b"Bearer whoever"}, {b"x-api-key": b"a", b"authorization": b"Bearer b"}]
)
def test_without_keys_everybody_may_ask(headers: dict[bytes, bytes]) -> None:
    keys = Keys((), None)
    assert len(keys) == 0
    assert keys.check(headers) is None


@pytest.mark.parametrize("key", [FIRST, SECOND, THIRD])
@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER   {}"])
def test_each_of_several_keys_is_known_in_both_headers(key: str, form: str) -> None:
    keys = Keys((FIRST, SECOND, THIRD), None)
    authorization = form.format(key).encode()
    assert keys.check({b"authorization": authorization}) == identity(key)
    assert keys.check({b"x-api-key": key.encode()}) == identity(key)
    assert keys.check({b"x-api-key": key.encode(), b"authorization": authorization}) == identity(key)


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({}, "This needs a key. Send Authorization: Bearer KEY, or X-API-Key: KEY."),
        ({b"authorization": b"Basic " + FIRST.encode()}, "This needs a key."),
        ({b"authorization": FIRST.encode()}, "This needs a key."),
        ({b"authorization": b"Bearer"}, "not known"),
        ({b"authorization": b"Bearer "}, "not known"),
        ({b"x-api-key": b""}, "not known"),
        ({b"x-api-key": FIRST[:-1].encode()}, "not known"),
        ({b"x-api-key": FIRST.encode() + b"0"}, "not known"),
        ({b"x-api-key": FIRST.upper().encode()}, "not known"),
        ({b"x-api-key": b"\xff\xfe" * 20}, "not known"),
        ({b"x-api-key": f"{FIRST}, {FIRST}".encode()}, "not known"),  # it came twice
        ({b"authorization": f"Bearer {FIRST}, Bearer {FIRST}".encode()}, "not known"),
        ({b"x-api-key": FIRST.encode(), b"authorization": b"Bearer " + SECOND.encode()}, "Two keys that differ"),
        ({b"x-api-key": SECOND.encode(), b"authorization": b"Bearer " + FIRST.encode()}, "Two keys that differ"),
        ({b"x-api-key": b"\xff", b"authorization": b"Bearer \xfe"}, "Two keys that differ"),
    ],
)
def test_what_is_no_known_key_is_refused_and_not_quoted(headers: dict[bytes, bytes], says: str) -> None:
    said = refused(Keys((FIRST, SECOND), None), headers)
    assert says in said
    assert "first" not in said.lower()


def test_the_authorization_of_a_proxy_does_not_hide_the_key() -> None:
    headers = {b"authorization": b"Basic dXNlcjpwYXNz", b"x-api-key": FIRST.encode()}
    assert Keys((FIRST,), None).check(headers) == identity(FIRST)


def test_every_key_is_compared_whichever_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(known: bytes, digest: bytes) -> bool:
        compared.append(known)
        return known == digest

    keys = Keys((FIRST, SECOND, THIRD), None)
    monkeypatch.setattr("serving.keys.compare_digest", compare)
    everyone = [hashlib.sha256(key.encode()).digest() for key in (FIRST, SECOND, THIRD)]
    for key in (FIRST, SECOND, THIRD, "nobodys-key-0123456789"):
        compared.clear()
        knows(keys, key)
        assert compared == everyone


def test_keys_are_kept_as_their_hashes_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(SECOND)
    kept = repr(vars(Keys((FIRST,), str(file))))
    assert FIRST not in kept
    assert SECOND not in kept


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("short-0123456", "Key 2 of SAMEDIGIT_KEYS has 13 characters; a key has at least 16. Make one: openssl rand"),
        ("", "Key 2 of SAMEDIGIT_KEYS has 0 characters"),
        ("with a space 0123456789", "Key 2 of SAMEDIGIT_KEYS has a character that a key cannot have"),
        ("with-ümlaut-0123456789", "a character that a key cannot have"),
        ("with-newline-0123456789\n", "a character that a key cannot have"),
    ],
)
def test_a_key_that_is_too_short_or_cannot_be_sent_stops_the_start_and_is_not_quoted(key: str, says: str) -> None:
    with pytest.raises(SettingError) as stopped:
        Keys((FIRST, key), None)
    assert says in str(stopped.value)
    assert not key or key not in str(stopped.value)
    assert FIRST not in str(stopped.value)


def test_control_has_names_of_its_own(tmp_path: Path) -> None:
    names = ("SAMEDIGIT_CONTROL_KEYS", "SAMEDIGIT_CONTROL_KEYS_FILE")
    with pytest.raises(SettingError, match="Key 1 of SAMEDIGIT_CONTROL_KEYS has 5"):
        Keys(("short",), None, names=names)
    with pytest.raises(SettingError, match=r"SAMEDIGIT_CONTROL_KEYS_FILE, .* cannot be read: No such file"):
        Keys((), str(tmp_path / "none"), names=names)


def test_a_file_has_a_key_a_line_beside_those_of_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# of the dashboard\n\n  {SECOND}  \r\n#{FIRST}\n{THIRD}")
    keys = Keys((FIRST,), str(file))
    assert len(keys) == 3
    assert all(knows(keys, key) for key in (FIRST, SECOND, THIRD))
    file.write_text(f"{FIRST}\n{SECOND}\n")
    assert len(Keys((FIRST, FIRST), str(file))) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "SAMEDIGIT_KEYS_FILE, FILE, has no key in it, so nobody could ask."),
        ("# none\n\n", "has no key in it"),
        (f"{FIRST}\nshort\n", "Line 2 of FILE has 5 characters; a key has at least 16"),
        (f"{FIRST}\n\n{SECOND} # comment\n", "Line 3 of FILE has a character that a key cannot have"),
    ],
)
def test_a_file_that_nobody_could_use_stops_the_start(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(SettingError) as stopped:
        Keys((THIRD,), str(file))
    assert says in str(stopped.value).replace(str(file), "FILE")
    assert SECOND not in str(stopped.value)


def test_a_file_that_is_not_there_or_a_folder_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(
        SettingError, match=r"SAMEDIGIT_KEYS_FILE, .*nowhere, cannot be read: No such file or directory\."
    ):
        Keys((), str(tmp_path / "nowhere"))
    with pytest.raises(SettingError, match=r"cannot be read: Is a directory\."):
        Keys((), str(tmp_path))


def test_a_changed_file_counts_within_a_second_and_is_looked_at_once_a_second(tmp_path: Path) -> None:
    file, clock = tmp_path / "keys", Clock()
    file.write_text(FIRST)
    keys = Keys((), str(file), clock=clock)
    file.write_text(SECOND)
    clock.now += 0.9
    assert knows(keys, FIRST)
    assert not knows(keys, SECOND)
    clock.now += 0.1
    assert knows(keys, SECOND)
    assert not knows(keys, FIRST)
    file.write_text(THIRD)
    assert knows(keys, SECOND)
    clock.now += 1
    assert knows(keys, THIRD)


def test_a_file_written_twice_within_a_tick_of_the_file_system_is_seen(tmp_path: Path) -> None:
    file, clock = tmp_path / "keys", Clock()
    file.write_text("a" * 20)
    before = file.stat()
    keys = Keys((), str(file), clock=clock)
    file.write_text("b" * 20)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    clock.now += 1
    assert knows(keys, "b" * 20)
    assert not knows(keys, "a" * 20)


@pytest.mark.parametrize("text", [None, "", "# none\n", "short\n"])
def test_a_file_that_goes_away_or_wrong_keeps_the_keys_says_so_once_and_counts_again_when_mended(
    text: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, clock = tmp_path / "keys", Clock()
    file.write_text(FIRST)
    keys = Keys((), str(file), clock=clock)
    caplog.set_level(logging.INFO, "samedigit")
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    for _ in range(3):
        clock.now += 1
        assert knows(keys, FIRST)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert caplog.messages[0].endswith("The keys stay as they were.")
    file.write_text(f"{FIRST}\n{SECOND}")
    clock.now += 1
    assert knows(keys, SECOND)
    assert caplog.messages[1:] == [f"{file} was read again: 2 keys are known."]
    file.unlink()
    clock.now += 1
    assert knows(keys, SECOND)
    assert len(caplog.records) == 3  # it is told again
    assert FIRST not in caplog.text
    assert SECOND not in caplog.text
