"""Who follows something is told when the line is lost, and when it is back."""

from vespid_client.comeback import Comeback, LineWatch
from vespid_client.errors import ConnectionFailed


async def test_a_loss_is_told_once_and_so_is_the_return() -> None:
    told: list[str] = []
    watch = LineWatch(on_lost=lambda error: told.append(f"lost: {error}"), on_back=lambda: told.append("back"))
    comeback = Comeback(60.0, watch)
    comeback.heard()
    await comeback.wait(ConnectionFailed("gone"))
    await comeback.wait(ConnectionFailed("still gone"))
    comeback.heard()
    comeback.heard()
    assert told == ["lost: gone", "back"]
