"""An agent: holds a candidate and serves it to one client after another.

`python -m adapters.server --fd N SPEC` is what a worker starts; `--listen ADDRESS` serves
whoever connects.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from . import wire
from .address import listen
from .candidate import Candidate, CandidateError, GarbageError
from .linux import executable
from .python import check_outcomes, describe, located
from .registry import Reach, open_candidate, reach_of
from .tls import TlsFiles
from .wire import GARBAGE, ClosedError, FrameType, Stream, WireError

__all__ = ["Listener", "serve", "serve_at"]

_GREETING_SECONDS = 10.0
_PARTING_SECONDS = 1.0


class _EndError(Exception):
    """The conversation is over; the text is for the client."""


def serve(stream: Stream, make: Callable[[], Candidate], name: str) -> None:
    """Serve one client until it leaves, and close the stream.

    Whatever is wrong, with the candidate or with the client, is said in an ERROR frame.
    """
    try:
        stream.send(FrameType.HELLO, wire.encode_hello(), deadline=_soon(_GREETING_SECONDS))
        _greet(stream)
        _converse(stream, _Session(make, name))
    except ClosedError:
        pass
    except (_EndError, WireError) as end:
        _part(stream, str(end))
    finally:
        stream.close()


def _greet(stream: Stream) -> None:
    frame = stream.receive(deadline=_soon(_GREETING_SECONDS))
    if frame.type != FrameType.HELLO:
        raise WireError(f"{frame.type.name} before HELLO")
    wire.check_hello(frame.payload)


def _converse(stream: Stream, session: _Session) -> None:
    while True:
        kind, payload = stream.receive()
        if kind == FrameType.BYE:
            return
        if kind not in session.answers:
            raise WireError(f"unexpected {kind.name}")
        stream.send(*session.answers[kind](payload))


def _part(stream: Stream, text: str) -> None:
    """Send an ERROR frame, and wait a moment for the client to read it and leave.

    Closing while there is unread input would make TCP drop what the client has not read yet.
    """
    deadline = _soon(_PARTING_SECONDS)
    try:
        stream.send(FrameType.ERROR, wire.encode_error(text), deadline=deadline)
        while True:
            stream.receive(deadline=deadline)
    except WireError:
        pass


def _linger(connection: socket.socket) -> None:
    """Close a socket that no stream could be made of, after a moment for the client to read."""
    with connection, contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(_PARTING_SECONDS)
        deadline = _soon(_PARTING_SECONDS)
        while connection.recv(4096) and time.monotonic() < deadline:
            pass


def _soon(seconds: float) -> float:
    return time.monotonic() + seconds


class _Session:
    """One client's use of a candidate, which is made when it is first needed."""

    def __init__(self, make: Callable[[], Candidate], name: str) -> None:
        self._make = make
        self._name = name
        self._candidate: Candidate | None = None
        self._done: int | None = None
        """Operations since the last reset; None before the first."""
        self.answers: dict[FrameType, Callable[[bytes], tuple[FrameType, bytes]]] = {
            FrameType.DESCRIBE: self._describe,
            FrameType.RESET: self._reset,
            FrameType.RUN: self._run,
        }

    def _get(self) -> Candidate:
        if self._candidate is None:
            try:
                self._candidate = self._make()
            except CandidateError as error:
                raise _EndError(str(error)) from None
        return self._candidate

    def _describe(self, payload: bytes) -> tuple[FrameType, bytes]:
        if payload:
            raise WireError("DESCRIBE with a payload")
        try:
            description = describe(self._get(), self._name)
        except CandidateError as error:
            raise _EndError(str(error)) from None
        return FrameType.DESCRIPTION, wire.encode_description(description)

    def _reset(self, payload: bytes) -> tuple[FrameType, bytes]:
        geometry, candidate = wire.decode_geometry(payload), self._get()
        try:
            candidate.reset(geometry)
        except CandidateError as error:
            raise _EndError(str(error)) from None
        except (Exception, SystemExit) as error:
            raise _EndError(f"reset raised {located(error)}") from None
        self._done = 0
        return FrameType.READY, b""

    def _run(self, payload: bytes) -> tuple[FrameType, bytes]:
        if self._done is None:
            raise WireError("RUN before RESET")
        operations = wire.decode_run(payload)
        try:
            answer: object = self._get().run(operations)
            result = wire.encode_result(check_outcomes(operations, answer, self._done))
            if len(result) > wire.MAX_PAYLOAD:
                raise GarbageError(f"run gave {len(result)} bytes, more than a frame may hold")
        except GarbageError as error:
            raise _EndError(GARBAGE + str(error)) from None
        except (Exception, SystemExit) as error:
            raise _EndError(f"run raised {located(error)}") from None
        self._done += len(operations)
        return FrameType.RESULT, result


class Listener:
    """Serves clients at an address, one after another."""

    def __init__(
        self, address: str, make: Callable[[], Candidate], name: str, tls: TlsFiles | None = None
    ) -> None:
        self._make = make
        self._name = name
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
        serve(Stream.of_socket(connection), self._make, self._name)

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
        copy.settimeout(_GREETING_SECONDS)
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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m adapters.server", description="Serve a candidate.")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--fd", type=int, help="serve the client on this inherited socket")
    place.add_argument("--listen", metavar="ADDRESS", help="tcp:HOST:PORT or unix:PATH")
    parser.add_argument("--certificate", type=Path, help="PEM file; asks for TLS")
    parser.add_argument("--key", type=Path)
    parser.add_argument("--authority", type=Path, help="signs the clients' certificates")
    parser.add_argument("spec", help="the candidate")
    arguments = parser.parse_args()
    files = (arguments.certificate, arguments.key, arguments.authority)
    if any(files) and not all(files):
        parser.error("TLS takes --certificate, --key and --authority")
    arguments.tls = TlsFiles(*files) if all(files) else None
    return arguments


def _keep_stdout() -> io.TextIOBase:
    """Let what the candidate prints go to stderr; gives the real stdout."""
    ours = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return ours


def main() -> int:
    """The command; gives its exit status."""
    arguments = _arguments()
    stdout = _keep_stdout()
    faulthandler.enable()

    if arguments.fd is not None:
        # The worker's parent decides when it ends, not a Ctrl-C at the terminal.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.set_inheritable(arguments.fd, False)
        make = partial(open_candidate, arguments.spec)
        serve(Stream.of_socket(socket.socket(fileno=arguments.fd)), make, arguments.spec)
        return 0
    try:
        serve_at(arguments.spec, arguments.listen, arguments.tls, _line_to(stdout))
    except CandidateError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _line_to(stream: io.TextIOBase) -> Callable[[str], object]:
    return lambda text: stream.write(f"{text}\n")


def serve_at(
    spec: str, address: str, tls: TlsFiles | None, announce: Callable[[str], object]
) -> None:
    """Serve a candidate at an address until interrupted, one client after another.

    `announce` is told where it listens.  `CandidateError` if there is no such candidate, or it is
    not possible or not safe to listen there.  A Linux mirror is an agent itself, and takes the
    place of this process.
    """
    if reach_of(spec) is Reach.EXECUTABLE:
        if tls is not None:
            raise CandidateError(f"{spec} speaks no TLS: it serves on the loopback only")
        path = str(executable(spec.partition(":")[2]))
        os.execv(path, [path, "--listen", address])
    make = partial(open_candidate, spec)
    make()  # better refused now than to the first client
    listener = Listener(address, make, spec, tls)
    announce(f"listening on {listener.address}")
    try:
        while True:
            listener.serve_one()
    finally:
        listener.close()


if __name__ == "__main__":
    sys.exit(main())
