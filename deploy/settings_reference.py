"""Writes docs/configuration.md from the settings classes: ``make docs``.

A program is a folder under services/ or deploy/ with a config.py or settings.py; it reads every variable of the
settings classes in there, inherited ones included.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, get_args

from pydantic import AliasChoices, AnyHttpUrl, SecretStr
from pydantic.fields import FieldInfo

from common.metering.prices import PriceTable
from common.settings import Settings

REPOSITORY: Final = Path(__file__).resolve().parents[1]
PAGE: Final = REPOSITORY / "docs" / "configuration.md"
_PROGRAMS: Final = MappingProxyType({"deploy.local": "`make up`", "deploy.envoy": "the edge"})
"""What readers call a program; services are called by the names of their folders."""
_TITLES: Final = MappingProxyType(
    {
        "common.settings": "All services",
        "common.upstream.settings": "Metering, and calls to providers",
        "common.metering.prices": "Prices",
    }
)
_TYPES: Final[Mapping[type, str]] = MappingProxyType(
    {
        bool: "`1` or `0`",
        int: "whole number",
        float: "number",
        str: "text",
        SecretStr: "secret",
        Path: "path",
        PriceTable: "path",
        AnyHttpUrl: "URL",
    }
)
_BOUNDS: Final = (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than"))
_CHOICE: Final = re.compile(r"\^\(([\w|-]+)\)\$")

_HEAD: Final = """\
# Configuration

Generated from the settings classes by `make docs`; a test fails when it is out of date.

Each variable is read from the environment once, at start. An empty one counts as not set. A wrong one ends the start
with exit status 2 and a line that names the variable and never shows its value. Blanks and line ends around a key or
secret are ignored. Where two names are given, the first one that is set counts.

`make up` hands each process only the variables that it reads. It sets addresses, inner ports and directories itself,
makes `TURNPIKE_SERVICE_KEY` and `TURNPIKE_JWT_SECRET` unless they are set, and requires a credential unless
`API_AUTH_REQUIRED` says otherwise. Without `make up`, [arguments](../deploy/envoy/README.md) say where Envoy listens
and where the services are.
"""
_TABLE: Final = "| variable | default | values | effect | read by |\n|---|---|---|---|---|\n"
_OTEL: Final = "https://opentelemetry.io/docs/languages/sdk-configuration/"
_LIBRARIES: Final = (
    (
        "`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, `OTEL_EXPORTER_OTLP_METRICS_ENDPOINT`",
        "Where spans and metrics are exported to, over OTLP/gRPC; nothing is exported without one.",
        "all services",
    ),
    ("`OTEL_SDK_DISABLED`", "`true`: nothing is exported.", "all services"),
    ("other `OTEL_` variables", f"As [OpenTelemetry's SDK]({_OTEL}) documents them.", "all services"),
    (
        "`SSL_CERT_FILE`, `SSL_CERT_DIR`",
        "The authorities that OpenSSL trusts, instead of the system's.",
        "services that call something over https",
    ),
)
"""What libraries read by themselves, and who loads them."""


@dataclass(frozen=True)
class Variable:
    """One setting as its class declares it."""

    names: tuple[str, ...]
    """The variables that it may be read from; the first one that is set counts."""
    default: str
    values: str
    effect: str


@dataclass(frozen=True)
class Program:
    """What reads settings: a service, or a part of deploy/."""

    name: str
    settings: tuple[type[Settings], ...]


def programs() -> tuple[Program, ...]:
    """Return all programs in the order of the page: services, then deploy."""
    files = [
        path
        for folder in ("services", "deploy")
        for path in sorted((REPOSITORY / folder).glob("*/*.py"))
        if path.stem in ("config", "settings")
    ]
    found = (
        (path, importlib.import_module(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))) for path in files
    )
    return tuple(
        Program(name=_program_name(module.__package__ or ""), settings=tuple(_classes_of(module)))
        for _, module in found
    )


def _program_name(package: str) -> str:
    return _PROGRAMS.get(package, package.rpartition(".")[2])


def _classes_of(module: object) -> Iterator[type[Settings]]:
    for each in vars(module).values():
        if inspect.isclass(each) and issubclass(each, Settings) and each.__module__ == getattr(module, "__name__", ""):
            yield each


def variables_of(settings: type[Settings]) -> tuple[Variable, ...]:
    """Return the variables that the class itself declares; raises ValueError for one without a docstring."""
    effects = _docstrings(settings)
    own = [name for name in vars(settings).get("__annotations__", {}) if name in settings.model_fields]
    missing = [name for name in own if name not in effects]
    if missing:
        raise ValueError(f"{settings.__name__} has fields without a docstring: {', '.join(missing)}")
    return tuple(_variable(settings, name, effect=effects[name]) for name in own)


def _variable(settings: type[Settings], name: str, *, effect: str) -> Variable:
    field = settings.model_fields[name]
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        names = tuple(str(each) for each in alias.choices)
    else:
        names = (str(alias or f"{settings.model_config.get('env_prefix', '')}{name}".upper()),)
    return Variable(names=names, default=_default(field), values=_values(field), effect=effect)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "none: it must be set"
    if field.default_factory is not None:
        return "see effect"
    value = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
    if value is None or value == "":
        return "not set"
    if isinstance(value, bool):
        return f"`{int(value)}`"
    return f"`{_exact(value) if isinstance(value, float) else str(value).removeprefix(f'{REPOSITORY}/')}`"


def _values(field: FieldInfo) -> str:
    kinds = [kind for kind in _plain(field.annotation) if kind is not type(None)]
    metadata = [*field.metadata, *(each for kind in kinds for each in getattr(kind, "__metadata__", ()))]
    words = [next((_TYPES[kind] for kind in kinds if kind in _TYPES), "text")]
    for item in metadata:
        words += [
            f"{word} {_exact(bound)}" for name, word in _BOUNDS if (bound := getattr(item, name, None)) is not None
        ]
        if least := getattr(item, "min_length", None):
            words.append(f"at least {least} characters")
        if pattern := getattr(item, "pattern", None):
            words.append(_pattern(pattern))
    # A choice says more than that it is text.
    return ", ".join(words[1:] if words[0] == "text" and len(words) > 1 else words)


def _exact(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def _plain(annotation: Any) -> Iterator[Any]:
    """Yield the types of which a union is made, and those that an Annotated stands for."""
    if hasattr(annotation, "__metadata__"):
        yield annotation.__origin__
    elif parts := get_args(annotation):
        for part in parts:
            yield from _plain(part)
    else:
        yield annotation


def _pattern(pattern: str) -> str:
    choice = _CHOICE.fullmatch(pattern)
    if choice:
        return ", ".join(f"`{each}`" for each in choice[1].split("|"))
    return f"matches `{pattern}`".replace("|", r"\|")


def _docstrings(settings: type[Settings]) -> dict[str, str]:
    """Return what stands below each field of the class, in one line."""
    node = ast.parse(textwrap.dedent(inspect.getsource(settings))).body[0]
    body = node.body if isinstance(node, ast.ClassDef) else []
    found = {}
    for field, below in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            found[field.target.id] = " ".join(str(ast.literal_eval(below.value)).split())
    return found


def render(all_programs: Sequence[Program]) -> str:
    """Return the whole page for these programs."""
    readers = _readers(all_programs)
    shown: set[str] = set()
    page = [_HEAD]
    for title, classes in _sections(all_programs).items():
        rows = []
        for variable in (variable for each in classes for variable in variables_of(each)):
            if not shown.issuperset(variable.names):
                rows.append(_row(variable, readers=readers))
                shown.update(variable.names)
        if rows:
            page.append(f"## {title}\n\n{_TABLE}{''.join(rows)}")
    libraries = "".join(f"| {names} | {effect} | {by} |\n" for names, effect, by in _LIBRARIES)
    page.append(f"## Variables of libraries\n\n| variable | effect | read by |\n|---|---|---|\n{libraries}")
    return "\n".join(page)


def _sections(all_programs: Sequence[Program]) -> dict[str, list[type[Settings]]]:
    """Return the classes by the title of their section: what is shared first, then the programs'."""
    sections: defaultdict[str, list[type[Settings]]] = defaultdict(list)
    for each in filter(_is_shared, _all_classes(all_programs)):
        sections[_TITLES.get(each.__module__, each.__module__)].append(each)
    for program in all_programs:
        title = program.name[:1].upper() + program.name[1:]
        sections[title] += [each for each in _all_classes([program]) if not _is_shared(each)]
    return dict(sections)


def _is_shared(settings: type[Settings]) -> bool:
    return settings.__module__.startswith("common.")


def _all_classes(all_programs: Iterable[Program]) -> list[type[Settings]]:
    """Return every class once, what is inherited before what inherits."""
    lines = [reversed(leaf.__mro__) for program in all_programs for leaf in program.settings]
    found = [each for line in lines for each in line if issubclass(each, Settings) and each is not Settings]
    return list(dict.fromkeys(found))


def _readers(all_programs: Sequence[Program]) -> dict[str, list[str]]:
    """Return the programs that read each variable."""
    readers: defaultdict[str, list[str]] = defaultdict(list)
    for program in all_programs:
        for variable in (variable for each in _all_classes([program]) for variable in variables_of(each)):
            for name in variable.names:
                if program.name not in readers[name]:
                    readers[name].append(program.name)
    return dict(readers)


def _row(variable: Variable, *, readers: Mapping[str, Sequence[str]]) -> str:
    names = " or ".join(f"`{name}`" for name in variable.names)
    by = ", ".join(dict.fromkeys(reader for name in variable.names for reader in readers[name]))
    effect = variable.effect.replace("``", "`").replace("|", r"\|").replace("<", r"\<")
    return f"| {names} | {variable.default} | {variable.values} | {effect} | {by} |\n"


def main() -> int:
    """Write the page; returns the exit status."""
    PAGE.write_text(render(programs()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
