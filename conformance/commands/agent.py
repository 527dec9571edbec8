"""`lastwriter agent`: serve a candidate to suites elsewhere."""

from __future__ import annotations

import click

from adapters.listener import serve_at
from adapters.tls import TlsFiles

from ..options import memory_option, tls_options
from .shared import CANDIDATE

__all__ = ["agent"]


@click.command()
@CANDIDATE
@click.option("--listen", required=True, metavar="ADDRESS", help="tcp:HOST:PORT or unix:PATH.")
@memory_option
@tls_options
def agent(candidate: str, listen: str, memory: int, tls: TlsFiles | None) -> None:
    """Serve CANDIDATE to whoever connects to ADDRESS, one client after another.

    Each client gets a new process of the candidate. Loopback only, unless TLS with client
    certificates is set up.
    """
    serve_at(candidate, listen, tls, memory << 20, click.echo)
