"""A real Docker engine of this test process, with one small image, made here: nothing is pulled from anywhere."""

import asyncio
import contextlib
import datetime
import ipaddress
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.support.processes import free_port

from vespid_agent.sandbox.docker.endpoint import Endpoint
from vespid_agent.sandbox.docker.engine import Engine, EngineError, EngineUnreachable

IMAGE = "vespid-test:latest"
_APPLETS = """
    awk cat chmod chown chroot cp cut dd echo env find grep head id kill ln ls mkdir mknod mount nc ps printenv rm
    sed seq setsid sh sleep sort stat tail touch tr true umount unshare wc wget yes""".split()  # noqa: SIM905
_READY_S = 60.0


class ContainerEngine:
    """A running engine."""

    def __init__(self, folder: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.port = port
        self.process = process
        self.socket = folder / "docker.sock"
        self.endpoint = Endpoint("unix", path=str(self.socket))

    @property
    def environment(self) -> dict[str, str]:
        return {"DOCKER_HOST": f"unix://{self.socket}"}

    @property
    def remote_environment(self) -> dict[str, str]:
        """The same engine as somebody on another machine reaches it: by TCP, with certificates on both sides."""
        return {
            "DOCKER_HOST": f"tcp://127.0.0.1:{self.port}",
            "DOCKER_TLS_VERIFY": "1",
            "DOCKER_CERT_PATH": str(self.folder / "tls"),
        }

    async def get(self, path: str, **query: str) -> Any:
        """One call of its API, whichever loop asks."""
        engine = Engine(self.endpoint)
        try:
            return await engine.get(path, **query)
        finally:
            await engine.close()

    async def containers(self) -> list[dict[str, Any]]:
        return list(await self.get("/containers/json", all="true"))

    async def volumes(self) -> list[dict[str, Any]]:
        return list((await self.get("/volumes"))["Volumes"] or ())

    async def ready(self) -> None:
        async with asyncio.timeout(_READY_S):
            while True:
                assert self.process.poll() is None, f"dockerd ended:\n{(self.folder / 'log').read_text()[-4000:]}"
                with contextlib.suppress(EngineError, EngineUnreachable):
                    await self.get("/info")
                    return
                await asyncio.sleep(0.1)

    async def import_image(self) -> None:
        await self.image_with(IMAGE.split(":")[0])

    async def image_with(self, name: str, *changes: str) -> str:
        """An image of busybox, with lines of a Dockerfile applied to it."""

        async def chunks() -> AsyncIterator[bytes]:
            yield _root_file_system()

        async with (
            self.endpoint.session() as session,
            session.post(
                "/v1.40/images/create",
                params=[("fromSrc", "-"), ("repo", name), ("tag", "latest"), *(("changes", line) for line in changes)],
                data=chunks(),
            ) as answer,
        ):
            text = await answer.text()
            assert answer.status == 200, text
            assert "error" not in text, text
        return f"{name}:latest"

    async def stop(self) -> None:
        self.process.terminate()
        try:
            await asyncio.to_thread(self.process.wait, 30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def container_engine() -> AsyncIterator[ContainerEngine]:
    """Needs root and `dockerd`; where the suite may install packages, it has."""
    async with running_engine() as engine:
        if engine is None:
            pytest.skip("needs root, dockerd and busybox (Debian: docker.io, busybox-static)")
        yield engine


@contextlib.asynccontextmanager
async def running_engine() -> AsyncIterator[ContainerEngine | None]:
    """An engine with the image; None where none can be started."""
    if os.geteuid() != 0 or shutil.which("dockerd") is None or shutil.which("busybox") is None:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="vespid-docker-"))
    folder.chmod(0o711)
    port = free_port()
    tls = folder / "tls"
    _make_certificates(tls)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *("dockerd", "-H", f"unix://{folder / 'docker.sock'}", "--pidfile", folder / "pid"),
                *("-H", f"tcp://127.0.0.1:{port}", "--tlsverify", "--tlscacert", tls / "ca.pem"),
                *("--tlscert", tls / "cert.pem", "--tlskey", tls / "key.pem"),
                *("--data-root", folder / "data", "--exec-root", folder / "exec"),
                *("--iptables=false", "--ip6tables=false"),
                # A bridge of its own: two engines of two test processes must not share one.
                f"--bridge={_BRIDGE if _make_bridge() else 'none'}",
            ],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    engine = ContainerEngine(folder, port, process)
    try:
        await engine.ready()
        await engine.import_image()
        yield engine
    finally:
        await engine.stop()
        subprocess.run(["ip", "link", "delete", _BRIDGE], check=False, capture_output=True)
        _unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)


_BRIDGE = f"vt{os.getpid()}"


def _make_bridge() -> bool:
    """A bridge with an address, on which containers find this machine and nothing beyond it."""
    number = os.getpid() % 250
    commands = (
        ["ip", "link", "add", _BRIDGE, "type", "bridge"],
        ["ip", "address", "add", f"10.213.{number}.1/24", "dev", _BRIDGE],
        ["ip", "link", "set", _BRIDGE, "up"],
    )
    return all(subprocess.run(command, check=False, capture_output=True).returncode == 0 for command in commands)


def _make_certificates(folder: Path) -> None:
    """An authority, and one certificate of it that serves the engine and whoever calls it."""
    folder.mkdir()
    now = datetime.datetime.now(datetime.UTC)

    def certificate(name: str, key: ec.EllipticCurvePrivateKey, issuer: str, *, is_authority: bool) -> Any:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
        )

    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = certificate("authority", authority_key, "authority", is_authority=True)
    ours = certificate("engine", key, "authority", is_authority=False)
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(authority.sign(authority_key, hashes.SHA256()).public_bytes(pem))
    (folder / "cert.pem").write_bytes(ours.sign(authority_key, hashes.SHA256()).public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def _unmount_below(folder: Path) -> None:
    for line in Path("/proc/mounts").read_text().splitlines():
        place = line.split()[1]
        if place.startswith(str(folder)):
            subprocess.run(["umount", "-l", place], check=False, capture_output=True)


def _root_file_system() -> bytes:
    """busybox, and the folders that a system has."""
    busybox = Path(shutil.which("busybox") or "/bin/busybox").read_bytes()
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, mode in (
            ("bin", 0o755),
            ("etc", 0o755),
            ("tmp", 0o1777),
            ("work", 0o755),
            ("root", 0o700),
            ("data", 0o1777),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        for name, content, mode in (
            ("bin/busybox", busybox, 0o755),
            # Where a hole in no-new-privileges would show: this root has no password.
            ("bin/su", busybox, 0o4755),
            ("etc/passwd", b"root::0:0::/root:/bin/sh\n", 0o644),
        ):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, BytesIO(content))
        for applet in _APPLETS:
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    return packed.getvalue()
