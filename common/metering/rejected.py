"""Shows the events that the usage service refused, or has them sent again: python -m common.metering.rejected.

The directory is TURNPIKE_STATE_DIR/outbox/<service>. The service may be running: it takes up what is put back within
seconds, else at its next start. An event that was stored already is not stored twice.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from common.metering import event_proto
from common.metering.outbox_directory import changing_rejected, events_in


def main(arguments: list[str]) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m common.metering.rejected", description=__doc__)
    parser.add_argument("directory", type=Path, help="the outbox of a service")
    parser.add_argument("--put-back", action="store_true", help="have them sent again, instead of showing them")
    given = parser.parse_args(arguments)
    if not given.directory.is_dir():
        sys.stderr.write(f"{given.directory} is no directory\n")
        return 2
    return put_back(given.directory) if given.put_back else show(given.directory)


def show(directory: Path) -> int:
    """Print a line of JSON for each refused event; returns the exit status."""
    for event in events_in(directory / "rejected"):
        try:
            record = event_proto.decode(event)
        except ValueError as error:
            line = {"unreadable": str(error), "bytes": len(event)}
        else:
            line = {
                "event_id": record.event_id.hex(),
                "request_id": record.request_id,
                "user_id": record.user_id,
                "model": record.model,
                "outcome": record.outcome.label if record.outcome else "",
            }
        sys.stdout.write(json.dumps(line) + "\n")
    return 0


def put_back(directory: Path) -> int:
    """Have the refused events sent again; returns the exit status."""
    returned = directory / "returned"
    with changing_rejected(directory) as rejected:
        if not rejected.exists():
            sys.stdout.write("there are no rejected events\n")
            return 0
        if returned.exists():
            sys.stderr.write("the events of the last time are not taken up yet: is the service running?\n")
            return 1
        rejected.rename(returned)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    sys.stdout.write("the service sends the rejected events again\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
