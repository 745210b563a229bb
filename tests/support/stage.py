"""Files by which a test and scripted turns wait for one another."""

from pathlib import Path

from tests.support.organization import until


class Stage:
    """`steps()` are for the message of a scripted turn."""

    def __init__(self, folder: Path, name: str = "stage") -> None:
        self._marks = folder / f"{name}-marks"
        self._go = folder / f"{name}-go"

    def steps(self) -> tuple[dict[str, object], ...]:
        """Say that the turn has begun, and wait."""
        return {"touch": str(self._marks)}, {"until": str(self._go)}

    async def begun(self, times: int = 1) -> list[str]:
        """Wait until so many tries have begun, and answer their requestIds."""
        await until(lambda: len(self.tries()) >= times, f"try {times} has begun")
        return self.tries()

    def tries(self) -> list[str]:
        """The requestId of each try that has begun."""
        return self._marks.read_text().splitlines() if self._marks.exists() else []

    def go_on(self) -> None:
        self._go.touch()
