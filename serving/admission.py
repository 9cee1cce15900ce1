"""Admission: whether a request may come in, decided once its head is known. What is refused has cost its head alone.

The order is: a key, the client's own rate, room for one more request, room for its body. Each worker decides for itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from serving.errors import Kind, RequestError
from serving.keys import keys_of
from serving.messages import Exchange
from serving.routes import Route
from serving.settings import Settings

REMEMBERED_CLIENTS: Final = 10_000  # whose rates are kept; then those at rest are forgotten

Shed = Callable[[str], None]  # counts what was refused for want of room, by its reason


class Admission:
    """Who may come in, and how many at once. Belongs to one event loop."""

    def __init__(self, settings: Settings, shed: Shed) -> None:
        self._keys, self._control_keys = keys_of(settings)
        self._control = settings.control
        self._max_requests = settings.max_requests
        self._max_request_bytes = settings.max_request_bytes
        self._rate = Rate(settings.max_rate) if settings.max_rate else None
        self._shed = shed
        self.requests = 0  # under way
        self.request_bytes = 0  # of their bodies

    def check_key(self, exchange: Exchange, route: Route) -> None:
        """Notes which key `exchange` came with.

        Raises:
            RequestError: UNAUTHENTICATED, the key that the route needs is missing; FORBIDDEN, control is off.
        """
        if route.control:
            if not self._control:
                raise RequestError(
                    Kind.FORBIDDEN,
                    "Models are neither loaded nor unloaded over the network here. SAMEDIGIT_CONTROL=on allows it, with a key "
                    "of SAMEDIGIT_CONTROL_KEYS.",
                )
            exchange.key = self._control_keys.check(exchange.head.headers)
        elif not route.open:
            exchange.key = self._keys.check(exchange.head.headers)

    def admit(self, exchange: Exchange, route: Route) -> None:
        """Gives `exchange` its place, until `release`; health and metrics need none.

        Raises:
            RequestError: TOO_OFTEN, this client's rate; BUSY, no room now.
        """
        if route.always:
            return
        if self._rate is not None:
            wait_seconds = self._rate.wait_seconds(exchange.key or exchange.address, time.monotonic())
            if wait_seconds:
                self._shed("rate")
                raise RequestError(
                    Kind.TOO_OFTEN,
                    f"At most {self._rate.per_second} requests a second, please. Try again later.",
                    retry_after_seconds=int(wait_seconds) + 1,
                )
        length = exchange.head.length or 0
        if self.requests >= self._max_requests:
            self._shed("requests")
            raise RequestError(
                Kind.BUSY, f"{self.requests} requests are under way. Try again later.", retry_after_seconds=1
            )
        if self.request_bytes + length > self._max_request_bytes:
            raise self._no_room_for_body()
        self.requests += 1
        self.request_bytes += length
        exchange.held = True
        exchange.reserved_bytes = length

    def reserve(self, exchange: Exchange, size: int) -> None:
        """Sees that `exchange` has room for a body of `size` bytes; for a chunked one, called again as it grows.

        Raises:
            RequestError: BUSY, there is none.
        """
        more = size - exchange.reserved_bytes
        if more <= 0:
            return
        if self.request_bytes + more > self._max_request_bytes:
            raise self._no_room_for_body()
        self.request_bytes += more
        exchange.reserved_bytes = size

    def _no_room_for_body(self) -> RequestError:
        self._shed("bytes")
        return RequestError(
            Kind.BUSY,
            f"The bodies of the requests under way fill their room of {self._max_request_bytes} bytes. Try again later.",
            retry_after_seconds=1,
        )

    def release(self, exchange: Exchange) -> None:
        """Frees the place of `exchange`: it was answered, or its client is gone. More than once does no harm."""
        if exchange.held:
            exchange.held = False
            self.requests -= 1
            self.request_bytes -= exchange.reserved_bytes
            exchange.reserved_bytes = 0


class Rate:
    """How many requests a second each client may send: a bucket of one second's worth, which refills steadily."""

    def __init__(self, per_second: int) -> None:
        self.per_second = per_second
        self._buckets: dict[str, tuple[float, float]] = {}  # client -> requests left, and when that was so

    def wait_seconds(self, client: str, now: float) -> float:
        """How long `client` has to wait for its next request; 0, and counted, if it need not."""
        left, then = self._buckets.get(client, (float(self.per_second), now))
        left = min(float(self.per_second), left + (now - then) * self.per_second)
        if left < 1:
            self._buckets[client] = left, now
            return (1 - left) / self.per_second
        if client not in self._buckets and len(self._buckets) >= REMEMBERED_CLIENTS:
            self._forget(now)
        self._buckets[client] = left - 1, now
        return 0

    def _forget(self, now: float) -> None:
        """Drops those who have their whole second again; if all are busy, everybody: better than growing for ever."""
        kept = {client: (left, then) for client, (left, then) in self._buckets.items() if now - then < 1}
        self._buckets = kept if len(kept) < REMEMBERED_CLIENTS else {}
