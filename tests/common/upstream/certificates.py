"""An authority of a test's own, and the certificates that it signs."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SERVER_NAME = "provider.example"
"""A name that nobody resolves; the server's certificate is for it and for 127.0.0.1."""


@dataclass(frozen=True)
class Certificates:
    """PEM files: the authority's certificate, and those of a server and a client, each with its key."""

    authority: Path
    server: Path
    client: Path
    client_key: Path
    locked_key: Path
    """The client's key, protected by a password."""

    def server_context(self, *, asks_for_certificate: bool = False) -> ssl.SSLContext:
        """Return what a server needs; it may take only clients that the authority knows."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server)
        if asks_for_certificate:
            context.load_verify_locations(cafile=self.authority)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def issue(directory: Path) -> Certificates:
    """Make an authority and what it signs in ``directory``."""
    authority = ec.generate_private_key(ec.SECP256R1())
    paths = Certificates(
        *(directory / name for name in ("ca.pem", "server.pem", "client.pem", "key.pem", "locked.pem"))
    )
    paths.authority.write_bytes(_signed("authority", authority, signer=authority, is_authority=True))
    server = ec.generate_private_key(ec.SECP256R1())
    paths.server.write_bytes(_signed("server", server, signer=authority) + _pem(server))
    client = ec.generate_private_key(ec.SECP256R1())
    paths.client.write_bytes(_signed("client", client, signer=authority))
    paths.client_key.write_bytes(_pem(client))
    paths.locked_key.write_bytes(_pem(client, serialization.BestAvailableEncryption(b"password")))
    return paths


def _signed(
    name: str, key: ec.EllipticCurvePrivateKey, *, signer: ec.EllipticCurvePrivateKey, is_authority: bool = False
) -> bytes:
    now = datetime.now(UTC)
    names: list[x509.GeneralName] = [x509.DNSName(SERVER_NAME), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} of a test")]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem(
    key: ec.EllipticCurvePrivateKey,
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption(),  # noqa: B008 - has no state
) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
