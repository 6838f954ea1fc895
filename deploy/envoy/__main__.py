"""Writes Envoy's configuration: ``python -m deploy.envoy --listen 0.0.0.0:8080 chat=chat:8080 ...``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common.settings import load
from deploy.envoy.clusters import Address
from deploy.envoy.render import CONTRACT, Places, write
from deploy.envoy.settings import EdgeSettings


def main() -> int:
    """Write the file that the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.envoy", description="Write Envoy's configuration.")
    parser.add_argument("--listen", type=address, default=("0.0.0.0", 8080), help="where clients connect: host:port")  # noqa: S104 - the public port
    parser.add_argument("--admin", type=address, default=("127.0.0.1", 9901), help="where the admin page listens")
    parser.add_argument("--contract", type=Path, default=CONTRACT, help="the descriptors that make proto writes")
    parser.add_argument("--output", type=Path, required=True, help="the file to write")
    parser.add_argument("service", nargs="+", type=service, help="name=host:port of a service")
    given = parser.parse_args()
    places = Places(listen=given.listen, admin=given.admin, services=dict(given.service))
    try:
        write(given.output, places=places, settings=load(EdgeSettings), contract=given.contract)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"turnpike: {error}\n")
        return 2
    return 0


def address(text: str) -> Address:
    """Read host:port; raises ValueError on another form."""
    host, _, port = text.rpartition(":")
    if not host:
        raise ValueError(f"{text} is not host:port")
    return host.strip("[]"), int(port)


def service(text: str) -> tuple[str, Address]:
    """Read name=host:port; raises ValueError on another form."""
    name, equals, place = text.partition("=")
    if not equals:
        raise ValueError(f"{text} is not name=host:port")
    return name, address(place)


if __name__ == "__main__":
    sys.exit(main())
