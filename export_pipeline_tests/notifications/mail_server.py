"""A real mail server on 127.0.0.1 that fails in the ways a test asks for, and the certificate that it shows."""

import asyncio
import ssl
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from export_pipeline.mongo.embedded import free_port

USER = "exports"
PASSWORD = "correct horse"


@dataclass
class PostOffice:
    """What the server got, and how it is to answer next."""

    port: int = field(default_factory=free_port)
    messages: list[EmailMessage] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    """RCPT and DATA, as they came."""
    rcpt_answers: deque[str] = field(default_factory=deque)
    """Its next answers to RCPT; 250 once they are used up."""
    data_answers: deque[str] = field(default_factory=deque)
    """Likewise once it has a message; ``die`` ends the connection instead."""
    holds: str = ""
    """The command that it does not answer until ``go`` is set."""
    came: threading.Event = field(default_factory=threading.Event)
    """Set once a command is held."""
    go: threading.Event = field(default_factory=threading.Event)
    over_tls: list[bool] = field(default_factory=list)

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        self.commands.append("RCPT")
        self.over_tls.append(session.ssl is not None)
        await self._hold("RCPT")
        answer = self.rcpt_answers.popleft() if self.rcpt_answers else "250 fine"
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        self.commands.append("DATA")
        content = envelope.content
        assert isinstance(content, bytes)
        answer = self.data_answers.popleft() if self.data_answers else "250 taken"
        if answer == "die" or answer.startswith("2"):
            self.messages.append(message_from_bytes(content, policy=policy.default))
            self.recipients += envelope.rcpt_tos
        if answer == "die":
            assert isinstance(server.transport, asyncio.WriteTransport)
            server.transport.abort()
        await self._hold("DATA")
        return answer

    async def _hold(self, command: str) -> None:
        if self.holds == command:
            self.came.set()
            await asyncio.to_thread(self.go.wait, 30)

    @contextmanager
    def open(self, certificate: "Certificate | None" = None, **options: Any) -> Iterator[None]:
        """Serve; with a certificate over STARTTLS and for those alone who log in."""
        if certificate is not None:
            options |= {
                "tls_context": certificate.context(),
                "require_starttls": True,
                "auth_required": True,
                "authenticator": _authenticate,
            }
        controller = Controller(self, "127.0.0.1", self.port, **options)
        controller.start()
        try:
            yield
        finally:
            self.go.set()
            controller.stop()


def _authenticate(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any) -> AuthResult:
    known = isinstance(data, LoginPassword) and (data.login, data.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=known, handled=False)


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate and its key, as files."""

    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Return what a server needs of it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


def make_certificate(folder: Path, *names: str) -> Certificate:
    """Make a certificate for these names and for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
    at = datetime.now(UTC)
    hosts: list[x509.GeneralName] = [x509.DNSName(name) for name in names] or [x509.IPAddress(ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - timedelta(days=1))
        .not_valid_after(at + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = Certificate(folder / "certificate.pem", folder / "key.pem")
    files.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files.key.write_bytes(private)
    return files
