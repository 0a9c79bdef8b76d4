"""HTTP connections on which requests begin in time: uvicorn waits for a request's head for ever."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol


class _Timely(asyncio.Protocol):
    """Closes a connection whose next request's head is not there within `seconds`: after the
    connection is made, or after the head's first byte. Until that, uvicorn's own limit holds."""

    seconds: float
    _transport: asyncio.Transport
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        self._transport = transport
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        request = getattr(self, "cycle", None)  # the latest one whose head is complete
        if request is None or request.response_complete:
            self._expect_head()
        else:
            self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self.seconds, self._transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def protocol(seconds: float) -> Any:
    """uvicorn's HTTP protocol, whose requests' heads must arrive within so many seconds."""
    return type("TimelyProtocol", (_Timely, AutoHTTPProtocol), {"seconds": seconds})
