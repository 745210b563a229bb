"""What connector tests share: a context under the cloud guard that is opened for loopback only, and a server's TLS."""

import datetime
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from vespid_runtime.connectors import ActionContext, ActionLimits
from vespid_runtime.egress import EgressGuard, EgressPolicy, GuardedHttp

MakeContext = Callable[..., ActionContext]


async def _to_loopback(host: str, port: int) -> Sequence[str]:
    """`*.local.example` lives here; every other name is somewhere inside."""
    return ["127.0.0.1"] if host.endswith(".local.example") else ["10.255.255.1"]


@pytest.fixture
async def make_context() -> AsyncIterator[MakeContext]:
    opened: list[GuardedHttp] = []

    async def ready(policy: EgressPolicy) -> GuardedHttp:
        http = GuardedHttp(EgressGuard(policy, _to_loopback))
        await http.start()
        opened.append(http)
        return http

    open_http = await ready(EgressPolicy.cloud("*.local.example"))
    closed_http = await ready(EgressPolicy.cloud())

    def make(*, guarded: bool = False, **more: object) -> ActionContext:
        settings: dict[str, object] = {
            "http": closed_http if guarded else open_http,
            "idempotency_key": "run-1:n1",
            "request_id": "run-1:n1:1",
            "limits": ActionLimits(timeout_ms=10_000, response_max_bytes=20_000, max_rows=100),
        }
        return ActionContext(**(settings | more))  # type: ignore[arg-type]

    yield make
    for http in opened:
        await http.stop()


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    """A server's context with a certificate for mail.local.example that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail.local.example")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("mail.local.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (tmp_path / "cert.pem").write_bytes(pem)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "key.pem").write_bytes(private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return context
