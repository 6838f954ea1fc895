"""Query parameters that must not fill a request's field, because the path does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from deploy.envoy.contract import Service


def path_fields(contract: Sequence[Service]) -> list[str]:
    """Return the names under which a query could replace a field of a path: as in the proto, and as in JSON; sorted.

    Envoy ignores these parameters on every path. Raises ValueError when a typed RPC, on a path without that field, has
    a field of such a name: it could not be asked for.
    """
    names = {
        name
        for service in contract
        if service.is_public
        for rpc in service.rpcs
        for binding in rpc.bindings
        for field in binding.path.fields
        for name in _spellings(field)
    }
    for service in contract:
        for rpc in service.rpcs if service.is_public else ():
            for binding in rpc.bindings:
                free = set(rpc.fields) - {field.partition(".")[0] for field in binding.path.fields}
                if rpc.is_typed and binding.takes_query and (lost := sorted(free & names)):
                    raise ValueError(
                        f"{service.full_name}.{rpc.name} takes {lost[0]} from the query of {binding.path.text}, and"
                        f" another path has a field of that name: name one of them otherwise"
                    )
    return sorted(names)


def _spellings(field: str) -> Iterator[str]:
    parts = ((part, _json_name(part)) for part in field.split("."))
    return (".".join(spelling) for spelling in itertools.product(*parts))


def _json_name(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(other[:1].upper() + other[1:] for other in others)
