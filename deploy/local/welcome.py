"""Waits until the stack is healthy, then says where it is and what to type; run as the stack's one-shot child."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from common.settings import load
from deploy.local.children import log_file
from deploy.local.config import ENVOY, LocalSettings
from deploy.local.demo import demo_token, wait_for_gateway
from deploy.local.health import wait_for, wait_until_healthy
from deploy.local.state import ENV_FILE, TOKEN_FILE, write_private

_REQUEST_SECONDS = 60.0
_SHOWN_LINES = 12


async def main() -> int:
    """Welcome the user when the stack is healthy; returns 1, after saying why, when no API token can be made."""
    settings = load(LocalSettings)
    report = partial(say_what_is_missing, logs=settings.state_dir / "logs")
    await wait_until_healthy(settings, report=report)
    jwt = os.environ["TURNPIKE_JWT"]
    try:
        async with httpx.AsyncClient(base_url=settings.url, trust_env=False, timeout=_REQUEST_SECONDS) as client:
            await wait_for({"auth through envoy": wait_for_gateway(client)}, report=report)
            token = await demo_token(client, jwt=jwt, kept=settings.state_dir / TOKEN_FILE)
    except httpx.HTTPError as error:
        print(f"turnpike: no API token could be made through {settings.url}: {error!r}")
        print(last_lines(["auth", ENVOY], state=settings.state_dir))
        return 1
    write_private(settings.state_dir / ENV_FILE, shell_variables(settings.url, token=token, jwt=jwt if token else None))
    print(welcome(settings, token=token), flush=True)
    return 0


def say_what_is_missing(names: Sequence[str], seconds: float, *, logs: Path) -> None:
    """Print which parts are not healthy after so many seconds."""
    print(f"turnpike: after {seconds:.0f} s still waiting for {', '.join(names)}; logs are in {logs}", flush=True)


def last_lines(names: Sequence[str], *, state: Path) -> str:
    """Return the last lines of the children's logs."""
    lines: list[str] = []
    for name in names:
        path = log_file(state, name)
        lines.append(f"--- the end of {path}")
        if path.exists():
            lines += path.read_text(errors="replace").splitlines()[-_SHOWN_LINES:]
    return "\n".join(lines)


def shell_variables(url: str, *, token: str | None, jwt: str | None) -> str:
    """Write the variables that a shell sources, without those that have no value."""
    variables = {"TURNPIKE_URL": url, "TURNPIKE_TOKEN": token, "TURNPIKE_JWT": jwt}
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items() if value)


def welcome(settings: LocalSettings, *, token: str | None) -> str:
    """Say where the gateway is, and what to paste."""
    state = _shown(settings.state_dir)
    model = "sandbox" if "chat" in settings.sandboxed else "gpt-4o-mini"
    chat = _curl_chat(model)
    return f"""
Turnpike is ready on {settings.url} (Ctrl-C stops it)

  API token   {token or "none: auth does not accept a JWT of the development secret"}
  upstream    {_upstream(settings)}
  state       {state}
  logs        {state}/logs

Paste into another terminal:

  source {shlex.quote(f"{state}/{ENV_FILE}")}

  # a chat
  {chat}

  # the same, streamed
  {chat.replace("curl", "curl -N", 1).replace("}]}", '}],"stream":true}')}

  # what was used in the last hour
  curl "$TURNPIKE_URL/v1/usage?hours=1" -H "Authorization: Bearer $TURNPIKE_TOKEN"

Python, with the OpenAI SDK:

  import openai, os
  client = openai.OpenAI(base_url=os.environ["TURNPIKE_URL"] + "/v1", api_key=os.environ["TURNPIKE_TOKEN"])
  print(client.chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "Hello"}}]))
"""


def _upstream(settings: LocalSettings) -> str:
    # Only the host: a URL may hold a password.
    chat = urlsplit(settings.openai_base_url or settings.openai_api_base or "").hostname or "api.openai.com"
    ocr = urlsplit(settings.mistral_base_url or settings.mistral_api_base or "").hostname or "api.mistral.ai"
    named = {"chat": chat, "ocr": ocr}
    if settings.sandboxed == set(named):
        return "the sandbox on this machine"
    shown = {service: "the sandbox" if service in settings.sandboxed else host for service, host in named.items()}
    return ", ".join(f"{service}: {host}" for service, host in shown.items())


def _curl_chat(model: str) -> str:
    body = f'{{"model":"{model}","messages":[{{"role":"user","content":"Hello"}}]}}'
    return (
        'curl "$TURNPIKE_URL/v1/chat/completions" -H "Authorization: Bearer $TURNPIKE_TOKEN" \\\n'
        f"    -H 'Content-Type: application/json' -d '{body}'"
    )


def _shown(path: Path) -> str:
    """Return the path as the user would type it: relative when it is below the working directory."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
