"""What the children find in their environment: the user's, and where everything is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deploy.local.config import HOST, Ports


def child_environment(
    user: Mapping[str, str], *, ports: Ports, state: Path, service_key: str, jwt_secret: str, repository: Path
) -> dict[str, str]:
    """Return the user's environment with the stack's addresses, secrets and directories.

    Addresses and directories are the starter's to say, so they replace what the user set; secrets are given
    as decided by the caller; whether authentication is required stays the user's choice.
    """
    return {
        "API_AUTH_REQUIRED": "1",
        **user,
        "TURNPIKE_SERVICE_KEY": service_key,
        "TURNPIKE_JWT_SECRET": jwt_secret,
        "TURNPIKE_STATE_DIR": str(state),
        **{f"TURNPIKE_{name.upper()}_LISTEN": f"{HOST}:{port}" for name, port in ports.services.items()},
        "TURNPIKE_SANDBOX_LISTEN": f"{HOST}:{ports.sandbox}",
        "TURNPIKE_AUTH_ADDRESS": f"{HOST}:{ports.auth}",
        "TURNPIKE_USAGE_ADDRESS": f"{HOST}:{ports.usage}",
        "TURNPIKE_SANDBOX_LEDGER_PATH": str(state / "sandbox" / "ledger.jsonl"),
        "PYTHONPATH": f"{repository}:{repository / 'gen'}",
        # A log line that is lost in a buffer when its process is killed helps nobody.
        "PYTHONUNBUFFERED": "1",
        "TZ": "UTC",
    }


def chroma_url(ports: Ports) -> str:
    """Return the URL of the Chroma server, which only the chroma service is told."""
    return f"http://{HOST}:{ports.chroma_server}"


def sandbox_url(ports: Ports) -> str:
    """Return the sandbox's base URL, which only services without an upstream of their own are told."""
    return f"http://{HOST}:{ports.sandbox}/v1"
