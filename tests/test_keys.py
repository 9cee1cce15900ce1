"""Keys: who may ask, how a key may come, and a file of keys that changes while the server runs."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import pytest

from digits.errors import SettingError
from serving.errors import Kind, RequestError
from serving.keys import Keys, keys_of
from serving.settings import read_settings

FIRST = "first-key-0123456789"
SECOND = "second-key-0123456789"
THIRD = "third-key-0123456789"
NO_KEY = "This needs a key. Send Authorization: Bearer KEY, or X-API-Key: KEY."
TWO_KEYS = "Two keys that differ. Send one: Authorization: Bearer KEY, or X-API-Key: KEY."
NO_KEY_IN_IT = (
    "SAMEDIGIT_KEYS_FILE, FILE, has no key in it, so nobody could ask. Write one a line, or leave the setting out."
)
NOT_KNOWN = "The key is not known here. It may have been replaced."


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
        ({}, NO_KEY),
        ({b"authorization": b"Basic " + FIRST.encode()}, NO_KEY),
        ({b"authorization": FIRST.encode()}, NO_KEY),
        ({b"authorization": b"Bearer"}, NOT_KNOWN),
        ({b"authorization": b"Bearer "}, NOT_KNOWN),
        ({b"authorization": b"Bearer \t" + FIRST.encode()}, NOT_KNOWN),  # a scheme ends with spaces alone
        ({b"x-api-key": b""}, NOT_KNOWN),
        ({b"x-api-key": FIRST[:-1].encode()}, NOT_KNOWN),
        ({b"x-api-key": FIRST.encode() + b"0"}, NOT_KNOWN),
        ({b"x-api-key": FIRST.upper().encode()}, NOT_KNOWN),
        ({b"x-api-key": b"\xff\xfe" * 20}, NOT_KNOWN),
        ({b"x-api-key": f"{FIRST}, {FIRST}".encode()}, NOT_KNOWN),  # it came twice
        ({b"authorization": f"Bearer {FIRST}, Bearer {FIRST}".encode()}, NOT_KNOWN),
        ({b"x-api-key": FIRST.encode(), b"authorization": b"Bearer " + SECOND.encode()}, TWO_KEYS),
        ({b"x-api-key": SECOND.encode(), b"authorization": b"Bearer " + FIRST.encode()}, TWO_KEYS),
        ({b"x-api-key": b"\xff", b"authorization": b"Bearer \xfe"}, TWO_KEYS),
    ],
)
def test_what_is_no_known_key_is_refused_and_not_quoted(headers: dict[bytes, bytes], says: str) -> None:
    said = refused(Keys((FIRST, SECOND), None), headers)
    assert said == says
    assert "first" not in said.lower()


def test_a_key_may_begin_and_end_with_any_character_but_a_comma() -> None:
    for code in range(0x21, 0x7F):
        if chr(code) != ",":
            key = f"{chr(code)}-key-0123456789-{chr(code)}"
            assert Keys((key,), None).check({b"authorization": f"Bearer {key}".encode()}) == identity(key)


def test_a_key_of_sixteen_characters_is_long_enough() -> None:
    assert knows(Keys(("0123456789abcdef",), None), "0123456789abcdef")


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
        ("", NO_KEY_IN_IT),
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


def test_a_file_that_is_no_text_stops_the_start_unless_a_comment_alone_is_none(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(f"# \xfcber\n{FIRST}\n".encode("latin-1"))
    assert knows(Keys((), str(file)), FIRST)
    file.write_bytes(f"{FIRST}\n{SECOND}\xfc\n".encode("latin-1"))
    with pytest.raises(SettingError, match=r"Line 2 of .* has a character that a key cannot have"):
        Keys((), str(file))


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


def test_a_file_that_did_not_change_is_not_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, clock = tmp_path / "keys", Clock()
    file.write_text(FIRST)
    keys = Keys((), str(file), clock=clock)
    caplog.set_level(logging.INFO, "samedigit")
    for text in (FIRST, SECOND, SECOND, SECOND):
        file.write_text(text)
        clock.now += 1
        assert knows(keys, text)
    assert caplog.messages == [f"{file} was read again: 1 key is known."]


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


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "SAMEDIGIT_KEYS_FILE, FILE, cannot be read: No such file or directory."),
        ("", NO_KEY_IN_IT),
        ("# none\n", NO_KEY_IN_IT),
        (
            "short\n",
            "Line 1 of FILE has 5 characters; a key has at least 16. Make one: openssl rand -hex 24",
        ),
    ],
)
def test_a_file_that_goes_away_or_wrong_keeps_the_keys_says_so_once_and_counts_again_when_mended(
    text: str | None, says: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
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
    assert caplog.messages[0].replace(str(file), "FILE") == f"{says} The keys stay as they were."
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


# Those of a server


def test_a_server_has_keys_for_requests_and_keys_for_control_each_with_its_own_file(tmp_path: Path) -> None:
    for name, key in (("keys", SECOND), ("control", THIRD)):
        (tmp_path / name).write_text(key)
    settings = {
        "SAMEDIGIT_KEYS": FIRST,
        "SAMEDIGIT_KEYS_FILE": str(tmp_path / "keys"),
        "SAMEDIGIT_CONTROL_KEYS": "fourth-key-0123456789",
        "SAMEDIGIT_CONTROL_KEYS_FILE": str(tmp_path / "control"),
    }
    keys, control = keys_of(read_settings(settings))
    everyone = (FIRST, SECOND, THIRD, "fourth-key-0123456789")
    assert [knows(keys, key) for key in everyone] == [True, True, False, False]
    assert [knows(control, key) for key in everyone] == [False, False, True, True]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"SAMEDIGIT_KEYS": "short"}, "Key 1 of SAMEDIGIT_KEYS has 5 characters; "),
        ({"SAMEDIGIT_KEYS_FILE": "/none"}, "SAMEDIGIT_KEYS_FILE, /none, cannot be read"),
        ({"SAMEDIGIT_CONTROL_KEYS": "short"}, "Key 1 of SAMEDIGIT_CONTROL_KEYS has 5 characters; "),
        ({"SAMEDIGIT_CONTROL_KEYS_FILE": "/none"}, "SAMEDIGIT_CONTROL_KEYS_FILE, /none, cannot be read"),
    ],
)
def test_a_server_s_keys_are_called_by_their_settings(settings: dict[str, str], says: str) -> None:
    with pytest.raises(SettingError) as stopped:
        keys_of(read_settings(settings))
    assert str(stopped.value).startswith(says)


def test_a_key_for_control_is_not_one_for_requests_too() -> None:
    with pytest.raises(SettingError) as stopped:
        keys_of(read_settings({"SAMEDIGIT_KEYS": f"{FIRST},{SECOND}", "SAMEDIGIT_CONTROL_KEYS": f"{THIRD},{SECOND}"}))
    assert str(stopped.value) == (
        "A key for control over models is among those for requests too, so that whoever may ask could unload a model. "
        "Make another: openssl rand -hex 24"
    )
