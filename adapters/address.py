"""Addresses of agents: `tcp:HOST:PORT` and `unix:PATH`, how to connect and to listen there.

Plain TCP has neither secrecy nor proof of who is there, and an agent does what it is told, so
it is kept to loopback addresses; beyond them there is only TLS with certificates on both sides.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import ssl
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .candidate import CandidateError
from .tls import TLS_IS_FOR, TlsFiles

__all__ = ["Address", "connect", "listen"]


@dataclass(frozen=True)
class Address:
    """Where an agent listens: a host and port, or the path of a Unix socket."""

    text: str
    host: str = ""
    port: int = 0
    path: str = ""

    @staticmethod
    def parse(text: str) -> Address:
        """`CandidateError` unless it is `tcp:HOST:PORT` or `unix:PATH`."""
        scheme, _, rest = text.partition(":")
        if scheme == "unix" and rest:
            return Address(text, path=rest)
        host, _, port = rest.rpartition(":")
        if scheme != "tcp" or not host or not (port.isascii() and port.isdecimal()):
            raise CandidateError(f"{text}: an address is tcp:HOST:PORT or unix:PATH")
        if int(port) > 0xFFFF:
            raise CandidateError(f"{text}: a port is at most 65535")
        return Address(text, host.removeprefix("[").removesuffix("]"), int(port))


def connect(text: str, tls: TlsFiles | None, deadline: float) -> socket.socket:
    """A connected socket, after the TLS handshake where there is one; `CandidateError`."""
    address = Address.parse(text)
    if tls and address.path:
        raise CandidateError(f"{text}: {TLS_IS_FOR}")
    family, place = _place(address, tls)
    with _closed_on_error(socket.socket(family)) as connection:
        try:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            connection.connect(place)
            if family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls is None:
                return connection
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            return tls.client_context().wrap_socket(connection, server_hostname=address.host)
        except ssl.SSLError as error:
            problem = getattr(error, "verify_message", None) or error.reason or "TLS failed"
            raise CandidateError(f"agent at {text}: {problem}") from None
        except OSError as error:
            problem = error.strerror or str(error) or "no answer in time"
            raise CandidateError(f"no agent at {text}: {problem}") from None


def listen(text: str, tls: TlsFiles | None) -> tuple[socket.socket, str]:
    """A listening socket and its address with the real port; `CandidateError`."""
    address = Address.parse(text)
    if tls and address.path:
        raise CandidateError(f"{text}: {TLS_IS_FOR}")
    family, place = _place(address, tls)
    with _closed_on_error(socket.socket(family)) as listener:
        try:
            if family == socket.AF_UNIX:
                _replace_stale(address)
                # Unlike chmod after bind, this leaves no moment in which others can connect.
                os.fchmod(listener.fileno(), 0o600)
            else:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(1)
        except OSError as error:
            raise CandidateError(f"cannot listen at {text}: {error.strerror or error}") from None
        if family == socket.AF_UNIX:
            return listener, text
        host = f"[{address.host}]" if ":" in address.host else address.host
        return listener, f"tcp:{host}:{listener.getsockname()[1]}"


@contextlib.contextmanager
def _closed_on_error(connection: socket.socket) -> Iterator[socket.socket]:
    try:
        yield connection
    except BaseException:
        connection.close()
        raise


def _place(address: Address, tls: TlsFiles | None) -> tuple[int, str | tuple[object, ...]]:
    """Family and socket address.  Resolved once, so that what was checked is what is used."""
    if address.path:
        return socket.AF_UNIX, address.path
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise CandidateError(f"{address.text}: no such host") from None
    family, _, _, _, place = found[0]
    if tls is None and not ipaddress.ip_address(str(place[0]).partition("%")[0]).is_loopback:
        raise CandidateError(
            f"{address.text}: not a loopback address, and plain TCP does not leave the machine; "
            "give certificates"
        )
    return family, place


def _replace_stale(address: Address) -> None:
    """Remove a socket file that nobody listens at any more."""
    try:
        mode = Path(address.path).lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise CandidateError(f"cannot listen at {address.text}: there is a file that is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address.path)
        except ConnectionRefusedError:
            Path(address.path).unlink()
            return
        except BlockingIOError:
            pass  # its queue of clients is full, so somebody does listen
    raise CandidateError(f"cannot listen at {address.text}: an agent is there already")
