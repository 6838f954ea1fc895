"""Runs a stack on this machine: `make up`."""

from __future__ import annotations

import sys


def main() -> int:
    """Start, and report what prevents it in one line."""
    try:
        from deploy.local.refused import Refused  # noqa: PLC0415
        from deploy.local.start import start  # noqa: PLC0415
    except ModuleNotFoundError as error:
        # Only this module can run without the installed packages, so the imports are here.
        print(f"turnpike: the Python package {error.name} is missing: run make setup", file=sys.stderr)
        return 2
    try:
        return start()
    except Refused as refused:
        print(f"turnpike: {refused}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
