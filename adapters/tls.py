"""TLS with certificates on both sides, for agents on other machines."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from .candidate import CandidateError

__all__ = ["TLS_IS_FOR", "TlsFiles"]

TLS_IS_FOR = "TLS is for tcp: addresses"
"""What is wrong where it was asked for elsewhere."""


@dataclass(frozen=True)
class TlsFiles:
    """Who we are and whom we trust, as PEM files.  The same form serves client and server."""

    certificate: Path
    key: Path
    authority: Path
    """Certificate of the authority that signed the peer's certificate."""

    @staticmethod
    def given(
        certificate: Path | None, key: Path | None, authority: Path | None, prefix: str = "--"
    ) -> TlsFiles | None:
        """From three options of a command line: all of them, or none; `CandidateError`."""
        if certificate and key and authority:
            return TlsFiles(certificate, key, authority)
        if certificate or key or authority:
            raise CandidateError(
                f"TLS needs {prefix}certificate, {prefix}key and {prefix}authority"
            )
        return None

    def server_context(self) -> ssl.SSLContext:
        """A context that takes only clients with a certificate of the authority."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        return self._load(context)

    def client_context(self) -> ssl.SSLContext:
        """A context that checks the server's certificate, and its name or address."""
        return self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def _load(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_verify_locations(self.authority)
        except (OSError, ValueError) as error:
            raise CandidateError(f"cannot use {self.authority}: {_reason(error)}") from None
        try:
            # The empty password stops an encrypted key from asking for one at the terminal.
            context.load_cert_chain(self.certificate, self.key, password="")
        except (OSError, ValueError) as error:
            pair = f"{self.certificate} with {self.key}"
            raise CandidateError(f"cannot use {pair}: {_reason(error)}") from None
        return context


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or str(error)
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
