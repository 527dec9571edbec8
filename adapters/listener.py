"""An agent at an address: serves one client after another, each with a candidate of its own.

The candidate is held by a process that ends with its client, so that whatever befalls it is said
to that client, and the agent is there for the next.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from reference.trace import Breakdown, Cause

from .address import listen
from .candidate import CandidateError
from .client import refusal
from .links import ChildLink, Limits
from .server import EndError, converse
from .tls import TlsFiles
from .wire import ClosedError, Frame, FrameType, Stream, WireError

__all__ = ["Listener", "serve_at"]

_HANDSHAKE_SECONDS = 10.0
_PARTING_SECONDS = 1.0


class _LeftError(Exception):
    """The client does not wait for its answer any more."""


class _Relay:
    """A session that passes each question on to a candidate's process, and its answer back."""

    def __init__(self, spec: str, limits: Limits, client: Stream) -> None:
        self._spec = spec
        self._limits = limits
        self._client = client
        self._link: ChildLink | None = None

    def answer(self, question: Frame) -> Frame:
        try:
            if self._link is None:
                self._link = ChildLink(self._spec, self._limits, attend=self._attend)
            answer = self._ask(self._link, question)
        except _LeftError:
            self.end()
            raise ClosedError("the client left") from None
        except CandidateError as error:
            self.end()
            raise EndError(str(error)) from None
        return answer

    def _ask(self, link: ChildLink, question: Frame) -> Frame:
        try:
            if question.type in {FrameType.RESET, FrameType.PLAY}:
                link.begin()
            link.client.stream.send(*question)
            answer = link.client.stream.receive()
            if answer.type == FrameType.ERROR:
                raise refusal(answer)
            link.settle()
        except WireError as error:
            raise CandidateError(_told(link.explain(error))) from None
        return answer

    def _attend(self) -> None:
        if self._client.left:
            raise _LeftError

    def end(self) -> None:
        """Break off."""
        link, self._link = self._link, None
        if link is not None:
            link.end()

    def close(self) -> None:
        """Let the candidate's process end by itself, if it does so soon."""
        link, self._link = self._link, None
        if link is not None:
            link.close()


def _told(breakdown: Breakdown) -> str:
    """A breakdown as the text of an ERROR frame."""
    named = "" if breakdown.cause is Cause.REFUSED else f"{breakdown.cause}: "
    return named + breakdown.message


class Listener:
    """Waits for clients at an address, and has them served one after another."""

    def __init__(
        self, address: str, serve: Callable[[Stream], None], tls: TlsFiles | None = None
    ) -> None:
        self._serve = serve
        self._context = tls.server_context() if tls else None
        self._socket, self.address = listen(address, tls)

    def serve_one(self) -> None:
        """Wait for a client and serve it until it leaves."""
        connection, _ = self._socket.accept()
        try:
            connection = self._prepared(connection)
        except OSError as error:
            sys.stderr.write(f"a client failed to connect: {error}\n")
            _linger(connection)
            return
        self._serve(Stream.of_socket(connection))

    def _prepared(self, connection: socket.socket) -> socket.socket:
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # A client whose machine vanished must not keep others out for ever.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._context is None:
            return connection
        # The wrapped socket is another object that closes itself when it fails: it gets a copy,
        # so that the client can be left politely.
        copy = connection.dup()
        copy.settimeout(_HANDSHAKE_SECONDS)
        secured = self._context.wrap_socket(copy, server_side=True)
        connection.close()
        return secured

    def close(self) -> None:
        """Stop listening; a `serve_one` that waits for a client in another thread ends."""
        with contextlib.suppress(OSError):  # it may be closed already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        scheme, _, path = self.address.partition(":")
        if scheme == "unix":
            Path(path).unlink(missing_ok=True)


def _linger(connection: socket.socket) -> None:
    """Close a socket that no stream could be made of, after a moment for the client to read."""
    with connection, contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(_PARTING_SECONDS)
        deadline = time.monotonic() + _PARTING_SECONDS
        while connection.recv(4096) and time.monotonic() < deadline:
            pass


def serve_at(
    spec: str, address: str, tls: TlsFiles | None, memory: int, announce: Callable[[str], object]
) -> None:
    """Serve a candidate at an address until interrupted, one client after another.

    `memory` is what its process may take, in bytes; `announce` is told where it listens.
    `CandidateError` if there is no such candidate, or it is not possible or not safe to listen
    there.
    """
    limits = Limits(memory=memory)
    ChildLink(spec, limits).close()  # better refused now than to the first client

    def serve(client: Stream) -> None:
        relay = _Relay(spec, limits, client)
        try:
            converse(client, relay)
        except BaseException:
            relay.end()
            raise
        relay.close()

    listener = Listener(address, serve, tls)
    announce(f"listening on {listener.address}")
    try:
        while True:
            listener.serve_one()
    finally:
        listener.close()
