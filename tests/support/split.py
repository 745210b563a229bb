"""An installation whose gateways are edges and brains of their own, each a process, as a larger house has them."""

from typing import Final

from tests.support.processes import Processes, RunningProcess, free_port

EDGES: Final = ("left", "right")


class Split:
    """Edges by name, each on a port that it keeps, and brains."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self._ports = {name: free_port() for name in EDGES}
        self._edges: dict[str, RunningProcess] = {}
        self.brains: list[RunningProcess] = []

    async def start(self, brains: int = 1) -> None:
        """Everything, agents apart."""
        # The worker and the API call the left edge.
        self.processes.env |= {
            "GATEWAY_PORT": str(self._ports["left"]),
            "GATEWAY_HTTP_URL": self.url("left"),
            "GATEWAY_WS_URL": self.host_url("left"),
        }
        await self.processes.start("api")
        for name in EDGES:
            await self.start_edge(name)
        for _ in range(brains):
            await self.start_brain()
        await self.processes.start("worker")

    async def start_edge(self, name: str) -> RunningProcess:
        """The edge of that name, for the first time or again."""
        at = {"GATEWAY_PORT": str(self._ports[name]), "GATEWAY_HTTP_URL": self.url(name)}
        self._edges[name] = await self.processes.start("gateway", GATEWAY_ROLE="edge", **at)
        return self._edges[name]

    async def start_brain(self) -> RunningProcess:
        port = free_port()
        at = {"GATEWAY_PORT": str(port), "GATEWAY_HTTP_URL": f"http://127.0.0.1:{port}"}
        brain = await self.processes.start("gateway", GATEWAY_ROLE="brain", **at)
        self.brains = [each for each in self.brains if each.returncode is None] + [brain]
        return brain

    def edge(self, name: str) -> RunningProcess:
        return self._edges[name]

    def url(self, name: str) -> str:
        """Where people's programs and other processes reach that edge."""
        return f"http://127.0.0.1:{self._ports[name]}"

    def host_url(self, name: str) -> str:
        """Where agents reach it."""
        return f"ws://127.0.0.1:{self._ports[name]}/ws/executor"
