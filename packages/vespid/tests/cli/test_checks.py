"""What `vespid doctor` says of names, sockets, certificates, proxies and clocks: the exact cause, and the mend."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.support.processes import free_port

from vespid.cli.checks import (
    Place,
    check_clock,
    check_dns,
    check_proxy,
    check_tcp,
    check_tls,
    check_transport,
)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class Authority:
    """A private certificate authority."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Our Own CA")])
        self.file = folder / "ca.pem"
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(days=400))
            .not_valid_after(now + timedelta(days=400))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def context(self, *, days: float = 90, name: str = "127.0.0.1") -> ssl.SSLContext:
        """A server's, with a certificate for that name that is good for so long."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        alternative = x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=300))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        file = self._folder / "server.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


@contextlib.asynccontextmanager
async def serving(context: ssl.SSLContext | None) -> AsyncIterator[Place]:
    async def hear(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0, ssl=context)
    async with server:
        yield Place.of(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def _trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))


async def tls(place: Place) -> tuple[str, str, str]:
    import os

    found = await check_tls(place, os.environ)
    return found.state, found.said, found.mend


@pytest.mark.usefixtures("_trusted")
async def test_a_certificate_of_a_private_authority_that_is_trusted_is_good(authority: Authority) -> None:
    async with serving(authority.context()) as place:
        state, said, _ = await tls(place)
    assert state == "ok"
    assert "Our Own CA" in said
    assert str(authority.file) in said


async def test_a_private_authority_that_is_not_trusted_is_named_with_what_to_set(authority: Authority) -> None:
    async with serving(authority.context()) as place:
        state, said, mend = await tls(place)
    assert state == "fail"
    assert "authority" in said
    assert "SSL_CERT_FILE" in mend


@pytest.mark.usefixtures("_trusted")
async def test_a_certificate_that_has_expired_is_said_to_have(authority: Authority) -> None:
    async with serving(authority.context(days=-1)) as place:
        state, said, _ = await tls(place)
    assert (state, "has expired" in said) == ("fail", True)


@pytest.mark.usefixtures("_trusted")
async def test_a_certificate_that_expires_soon_is_warned_of(authority: Authority) -> None:
    async with serving(authority.context(days=5)) as place:
        state, _, mend = await tls(place)
    assert (state, "renewed" in mend) == ("warn", True)


@pytest.mark.usefixtures("_trusted")
async def test_a_certificate_of_another_name_is_said_to_be(authority: Authority) -> None:
    async with serving(authority.context(name="other.example")) as place:
        state, said, _ = await tls(place)
    assert (state, "another name" in said) == ("fail", True)


async def test_a_port_that_speaks_no_tls_is_said_not_to() -> None:
    async with serving(None) as place:
        state, _, mend = await tls(place)
    assert (state, "speak TLS" in mend) == ("fail", True)


async def test_a_name_that_leads_nowhere_fails() -> None:
    found = await check_dns(Place.of("https://nowhere.invalid"))
    assert (found.state, "nowhere.invalid" in found.said) == ("fail", True)


async def test_a_port_where_nobody_listens_is_told_from_a_lost_packet() -> None:
    found = await check_tcp(Place.of(f"http://127.0.0.1:{free_port()}"))
    assert (found.state, "refused" in found.said) == ("fail", True)


def test_the_proxy_in_use_is_said_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://ann:s3cret@proxy.example:8080")
    found = check_proxy(Place.of("https://vespid.example"))
    assert found.state == "ok"
    assert "proxy.example:8080" in found.said
    assert "s3cret" not in found.said


def test_a_proxy_for_this_machine_itself_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.example:8080")
    assert check_proxy(Place.of("http://127.0.0.1:3001")).state == "warn"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert check_proxy(Place.of("http://127.0.0.1:3001")).state == "ok"


def test_a_login_in_the_open_is_warned_of() -> None:
    assert check_transport(Place.of("http://10.0.0.5:3001")).state == "warn"
    assert check_transport(Place.of("http://localhost:3001")).state == "ok"
    assert check_transport(Place.of("https://10.0.0.5")).state == "ok"


@pytest.mark.parametrize(("behind_s", "state"), [(0, "ok"), (-3, "ok"), (30, "warn"), (-30, "warn"), (600, "fail")])
def test_a_clock_is_judged_by_the_servers(behind_s: float, state: str) -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    found = check_clock(format_datetime(now, usegmt=True), now.timestamp() + behind_s)
    assert found.state == state


def test_a_server_that_says_no_time_is_said_not_to() -> None:
    assert check_clock(None, 0).state == "warn"
    assert check_clock("yesterday", 0).state == "warn"
