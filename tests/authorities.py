"""Authorities that sign certificates for tests of TLS."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from adapters.tls import TlsFiles


class Authority:
    """An authority for certificates, in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, folder.name)])
        self.file = folder / "authority.pem"
        extensions = [
            x509.BasicConstraints(ca=True, path_length=0),
            x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()),
        ]
        self._write(self.file, self.name, self.key.public_key(), extensions)

    def certify(self, name: str, address: str | None = None) -> TlsFiles:
        """A key and a certificate, for a server at an address or for a client."""
        key = ec.generate_private_key(ec.SECP256R1())
        files = TlsFiles(self.folder / f"{name}.pem", self.folder / f"{name}.key", self.file)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        files.key.write_bytes(private)
        extensions: list[x509.ExtensionType] = [
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        ]
        if address is not None:
            host = x509.IPAddress(ipaddress.ip_address(address))
            extensions.append(x509.SubjectAlternativeName([host]))
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._write(files.certificate, subject, key.public_key(), extensions)
        return files

    def _write(
        self,
        path: Path,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        extensions: Sequence[x509.ExtensionType],
    ) -> None:
        now = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + day)
        )
        for extension in extensions:
            critical = isinstance(extension, x509.BasicConstraints)
            builder = builder.add_extension(extension, critical=critical)
        certificate = builder.sign(self.key, hashes.SHA256())
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
