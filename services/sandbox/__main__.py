"""Runs the sandbox: `python -m services.sandbox`."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

from common.settings import load
from services.sandbox.app import Parts, create_app
from services.sandbox.config import SandboxSettings, split_address
from services.sandbox.server import make_server
from services.sandbox.store import FileLedger, Ledger, NullLedger


def main() -> None:
    """Serve until a signal ends it."""
    settings = load(SandboxSettings)
    host, port = split_address(settings.listen)
    with ExitStack() as stack:
        ledger: Ledger = NullLedger()
        if settings.ledger_path:
            ledger = stack.enter_context(closing(FileLedger(Path(settings.ledger_path))))
        app = create_app(Parts(ledger=ledger, event_delay_seconds=settings.event_delay_seconds))
        make_server(app, host=host, port=port).run()


if __name__ == "__main__":
    main()
