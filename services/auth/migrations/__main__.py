"""Alembic's command line for the auth service's database: python -m services.auth.migrations upgrade head."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from alembic.config import CommandLine

from services.auth.migrations.upgrade import alembic_config


def main(arguments: Sequence[str]) -> None:
    """Run one of Alembic's commands; exits with 2 on a wrong one."""
    line = CommandLine(prog="python -m services.auth.migrations")
    options = line.parser.parse_args(arguments)
    if not hasattr(options, "cmd"):
        line.parser.error("which command?")
    config = alembic_config()
    config.cmd_opts = options
    line.run_cmd(config, options)


if __name__ == "__main__":
    main(sys.argv[1:])
