from __future__ import annotations

from vespid_agent.testing.fake_gateway import FakeGateway
from vespid_agent.testing.running import AgentProcess, InProcessAgent


def echo(text: str) -> dict[str, object]:
    node = {"id": "n1", "config": {"engine": {"id": "vespid.echo.v1"}, "prompt": {"instructions": text}}}
    return {"nodeId": "n1", "node": node}


async def test_echo(gateway: FakeGateway, agent: InProcessAgent) -> None:
    result = await gateway.run("agent.run", echo("hi"))
    assert result.status == "succeeded"
    print(result)
    r2 = await gateway.run("agent.execute", {"nodeId":"n1","node":{"id":"n1","config":{"task":{"type":"shell","script":"echo hello; echo $VESPID_IDEMPOTENCY_KEY"}}},"runId":"r"})
    print(r2, bytes(r2.output))
    print((await gateway.link()).frames)


async def test_process(gateway: FakeGateway, process: AgentProcess) -> None:
    await process.start()
    result = await gateway.run("agent.run", echo("hi"))
    assert result.status == "succeeded"
    import signal
    process.signal(signal.SIGTERM)
    assert await process.exit_code() == 0
    print(process.log.read_text())
