"""Who may ask: requests carry a key, of which the server has several, from its settings and from a file.

A key is kept as its SHA-256 alone, and so is what a client sends before it is compared: with every key, in a time that depends
neither on where two of them differ nor on which one it is. What a client sent stands in no message and no log line.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from hmac import compare_digest
from pathlib import Path
from typing import Final

from digits.errors import SettingError
from serving.errors import Kind, RequestError
from serving.settings import Settings

LEAST_CHARACTERS: Final = 16
CHECK_SECONDS: Final = 1.0  # at most this old is what is known of the file
TAKES: Final = "Authorization: Bearer KEY, or X-API-Key: KEY"
KEY: Final = re.compile(
    r"[!-+\--~]*"
)  # printable ASCII without spaces, and without the comma that parts keys and headers

log = logging.getLogger("samedigit")


class Keys:
    """The keys of which a request needs one.

    Args:
        keys: from the settings.
        file: path of further ones, one a line, without blank lines and those that begin with #; read again when it changes.
        names: what to call the two in messages.
        clock: seconds, for the time between two looks at the file.

    Raises:
        SettingError: a key that is too short or has a character that no key has; a file that cannot be read or has no key.
    """

    def __init__(
        self,
        keys: Sequence[str],
        file: str | None,
        *,
        names: tuple[str, str] = ("SAMEDIGIT_KEYS", "SAMEDIGIT_KEYS_FILE"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = None if file is None else Path(file)
        self._file_name = names[1]
        self._clock = clock
        for number, key in enumerate(keys, 1):
            _check(key, f"Key {number} of {names[0]}")
        self._given = self._known = _digests(keys)
        self._read_last = b""  # the SHA-256 of the file's text
        if self._file is not None:
            self._read()
        self._complaint = ""
        self._look_at = clock() + CHECK_SECONDS

    def __len__(self) -> int:
        return len(self._known)

    def check(self, headers: Mapping[bytes, bytes]) -> str | None:
        """Which key a request came with: the first eight hexadecimal digits of its SHA-256. None if it needs none.

        Args:
            headers: names in lower case; what came twice is joined with ", ", which no key contains.

        Raises:
            RequestError: unauthenticated: no key, two that differ, or one that is not known.
        """
        if self._file is not None and self._clock() >= self._look_at:
            self._look()
        if not self._known:
            return None
        authorization = headers.get(b"authorization")
        key = headers.get(b"x-api-key")
        if authorization is not None:
            # Another scheme than Bearer is a matter of somebody else, such as a proxy in front.
            scheme, _, token = authorization.partition(b" ")
            if scheme.lower() == b"bearer":
                token = token.strip(b" ")
                if key is not None and not compare_digest(key, token):
                    raise RequestError(Kind.UNAUTHENTICATED, f"Two keys that differ. Send one: {TAKES}.")
                key = token
        if key is None:
            raise RequestError(Kind.UNAUTHENTICATED, f"This needs a key. Send {TAKES}.")
        # No cache of what was right lately: it would save 0.5 us, and its comparison would be a dictionary's, not this one.
        digest = hashlib.sha256(key).digest()
        found = None
        for known, identity in self._known:
            if compare_digest(known, digest):
                found = identity  # and on to the last, so that the time does not say which one it was
        if found is None:
            raise RequestError(Kind.UNAUTHENTICATED, "The key is not known here. It may have been replaced.")
        return found

    def shares_one_with(self, other: Keys) -> bool:
        return not {known for known, _ in self._known}.isdisjoint(known for known, _ in other._known)

    def _look(self) -> None:
        """Reads the file again; where that cannot be done, or it is not fit to use, the keys stay as they were."""
        self._look_at = self._clock() + CHECK_SECONDS
        try:
            changed = self._read()
        except SettingError as error:
            if str(error) != self._complaint:  # once, not each second
                self._complaint = str(error)
                log.error("%s The keys stay as they were.", error)
            return
        self._complaint = ""
        if changed:
            number = len(self._known)
            log.info("%s was read again: %s known.", self._file, "1 key is" if number == 1 else f"{number} keys are")

    def _read(self) -> bool:
        """Takes the keys from the file; whether it had changed.

        The whole file each time: it costs little more than asking for its time and size, which stay the same when it is
        written twice within the file system's tick.
        """
        assert self._file is not None
        try:
            text = self._file.read_bytes()
        except OSError as error:
            raise SettingError(f"{self._file_name}, {self._file}, cannot be read: {error.strerror}.") from error
        digest = hashlib.sha256(text).digest()
        if digest == self._read_last:
            return False
        keys = []
        for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
            key = line.strip()
            if key and not key.startswith("#"):
                _check(key, f"Line {number} of {self._file}")
                keys.append(key)
        if not keys:
            raise SettingError(
                f"{self._file_name}, {self._file}, has no key in it, so nobody could ask. "
                "Write one a line, or leave the setting out."
            )
        self._known = tuple(dict.fromkeys((*self._given, *_digests(keys))))
        self._read_last = digest
        return True


def keys_of(settings: Settings) -> tuple[Keys, Keys]:
    """The keys for requests, and those for control over models.

    Raises:
        SettingError: a key or file that cannot be used; a key that is among both, since control has keys of its own.
    """
    keys = Keys(settings.keys, settings.keys_file)
    control = Keys(
        settings.control_keys,
        settings.control_keys_file,
        names=("SAMEDIGIT_CONTROL_KEYS", "SAMEDIGIT_CONTROL_KEYS_FILE"),
    )
    if keys.shares_one_with(control):
        raise SettingError(
            "A key for control over models is among those for requests too, so that whoever may ask could unload a model. "
            "Make another: openssl rand -hex 24"
        )
    return keys, control


def _check(key: str, where: str) -> None:
    if not KEY.fullmatch(key):
        raise SettingError(f"{where} has a character that a key cannot have: printable ASCII, no space and no comma.")
    if len(key) < LEAST_CHARACTERS:
        raise SettingError(
            f"{where} has {len(key)} characters; a key has at least {LEAST_CHARACTERS}. Make one: openssl rand -hex 24"
        )


def _digests(keys: Sequence[str]) -> tuple[tuple[bytes, str], ...]:
    digests = dict.fromkeys(hashlib.sha256(key.encode()).digest() for key in keys)
    return tuple((digest, digest.hex()[:8]) for digest in digests)
