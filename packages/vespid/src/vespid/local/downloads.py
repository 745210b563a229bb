"""In a checkout where `make agent-binary` was run, its `dist/` is offered for download by itself."""

from collections.abc import Mapping
from pathlib import Path

from vespid.domain.download import PLATFORMS

CHECKOUT = Path(__file__).resolve().parents[5]


def offered(env: Mapping[str, str], checkout: Path = CHECKOUT) -> dict[str, str]:
    """The variables that say so; none where the operator says anything about downloads, or nothing was made."""
    dist = checkout / "dist"
    told = any(name.startswith("AGENT_INSTALLER_") for name in env)
    is_checkout = (checkout / "agent_binary").is_dir()
    if told or not is_checkout or not any((dist / platform.file_name).is_file() for platform in PLATFORMS):
        return {}
    return {"AGENT_INSTALLER_ENABLED": "1", "AGENT_INSTALLER_ARTIFACTS_DIR": str(dist)}
