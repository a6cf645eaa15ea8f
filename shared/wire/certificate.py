"""TLS for links: self-signed certificates, believed for their fingerprint in an announcement.

No authority vouches for volunteers. A worker makes a certificate at each start and announces its
fingerprint under its signature; who dials it accepts that certificate and no other, and both ends
sign the fingerprint in the handshake, so that nobody can sit between two links either.
"""

import datetime
import hashlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAME = "bucket-brigade"
YEARS = 10
"""The fingerprint is what counts, and a certificate lives no longer than its process."""


@dataclass(frozen=True)
class Certificate:
    """What a process proves itself by in TLS, and the SHA-256 that names it."""

    context: ssl.SSLContext
    fingerprint: bytes

    @classmethod
    def create(cls) -> "Certificate":
        """A new key and a certificate that it signs itself."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
            .sign(key, hashes.SHA256())
        )
        return cls(_server_context(key, certificate), certificate.fingerprint(hashes.SHA256()))


def pinning_context() -> ssl.SSLContext:
    """For dials whose certificate is compared with an announced fingerprint afterwards."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def fingerprint_of(tls: ssl.SSLObject) -> bytes:
    """The SHA-256 of the certificate that the other end has shown."""
    return hashlib.sha256(tls.getpeercert(binary_form=True) or b"").digest()


def _server_context(
    key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + certificate.public_bytes(serialization.Encoding.PEM)
    with TemporaryDirectory(
        prefix="brigade-"
    ) as folder:  # OpenSSL takes files, readable by us only
        path = Path(folder) / "tls.pem"
        path.write_bytes(pem)
        context.load_cert_chain(path)
    return context
