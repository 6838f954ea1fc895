"""The rules of the house, checked on the source."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import pytest

from tests.architecture.source import REPOSITORY, Module, modules, services

_TRANSPORT: Final = ("grpc", "google.protobuf", "google.rpc", "google.api", "fastapi", "turnpike")
"""What a core must not know: gRPC, protobuf, FastAPI, and the generated code."""
_LAYERS: Final[Mapping[str, int]] = MappingProxyType({"store": 0, "core": 1, "servicer": 2, "app": 2, "__main__": 3})
_WEB: Final = ("sandbox", "portal")
"""Services that speak HTTP themselves: an app.py in the place of a servicer.py."""
_EMPTY_NAMES: Final = ("util", "utils", "helper", "helpers", "misc", "manager", "impl", "base", "common", "stuff")
_LINES_AT_MOST: Final = 300
_LONG_FILES: Final[Mapping[str, str]] = MappingProxyType({})
"""Files over the limit, each with the reason why it is better whole."""
_REPLACING: Final[Mapping[str, str]] = MappingProxyType(
    {"tests/deploy/test_preflight.py": "the platform that it runs on, and a wait that would be real"}
)
"""Tests that replace parts of the code, each with the reason."""
_MUTATORS: Final = (
    *("append", "extend", "insert", "remove", "pop", "popitem", "clear"),
    *("add", "discard", "update", "setdefault", "appendleft", "popleft", "move_to_end", "sort"),
)
_MUTABLE_CALLS: Final = ("list", "dict", "set", "defaultdict", "OrderedDict", "deque", "Counter", "bytearray")
_READERS_OF_THE_ENVIRONMENT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "common/settings.py": "says which of several names was set",
        "common/telemetry.py": "the standard OTEL variables are the SDK's own",
    }
)


def _is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("module", modules("common"), ids=str)
def test_common_imports_no_service_and_nothing_above_it(module: Module) -> None:
    above = ("services", "deploy", "bench", "tests")
    assert [name for name in module.imports if any(_is_within(name, package) for package in above)] == []


@pytest.mark.parametrize("module", modules("services"), ids=str)
def test_a_service_imports_no_other_service(module: Module) -> None:
    own = ".".join(module.path.parts[:2])
    above = ("deploy", "bench", "tests")
    foreign = [name for name in module.imports if _is_within(name, "services") and not _is_within(name, own)]
    assert foreign + [name for name in module.imports if any(_is_within(name, package) for package in above)] == []


@pytest.mark.parametrize("module", modules("services"), ids=str)
def test_within_a_service_imports_go_down_only(module: Module) -> None:
    layer = _LAYERS.get(module.path.stem)
    if layer is None:
        return
    own = f"services.{module.path.parts[1]}"
    upwards = [
        name
        for name in module.imports
        for above, height in _LAYERS.items()
        if height > layer and _is_within(name, f"{own}.{above}")
    ]
    assert upwards == []


def _reached(module: Module) -> Iterator[Module]:
    """Yield the module and all of its own service that it imports, near and far."""
    waiting, seen = [module], set[str]()
    everything = {each.name: each for each in modules(str(Path(*module.path.parts[:2])))}
    while waiting:
        current = waiting.pop()
        if current.name in seen:
            continue
        seen.add(current.name)
        yield current
        names = set(current.imports) | {name.rpartition(".")[0] for name in current.imports}
        waiting += [everything[name] for name in names if name in everything]


@pytest.mark.parametrize("service", services())
def test_a_core_knows_nothing_of_its_transport(service: str) -> None:
    core = Module(Path("services", service, "core.py"))
    known = {
        f"{module}: {name}"
        for module in _reached(core)
        for name in module.imports
        if any(_is_within(name, package) for package in _TRANSPORT)
    }
    assert known == set()


@pytest.mark.parametrize("service", services())
def test_every_service_has_the_same_shape(service: str) -> None:
    face = "app.py" if service in _WEB else "servicer.py"
    wanted = ["README.md", "__main__.py", "config.py", "core.py", face]
    assert [name for name in wanted if not (REPOSITORY / "services" / service / name).is_file()] == []


@pytest.mark.parametrize("service", services())
def test_every_service_is_tested_where_one_looks_for_it(service: str) -> None:
    assert list((REPOSITORY / "tests" / "services" / service).glob("test_*.py"))


def test_no_file_has_a_name_that_says_nothing() -> None:
    everything = modules("common", "services", "deploy", "bench", "tests")
    assert [str(module) for module in everything if module.path.stem in _EMPTY_NAMES] == []


def test_no_file_is_long_without_a_reason() -> None:
    everything = modules("common", "services", "deploy", "bench")
    long = {str(module): module.text.count("\n") for module in everything if module.text.count("\n") > _LINES_AT_MOST}
    unexplained = {name: lines for name, lines in long.items() if name not in _LONG_FILES}
    assert unexplained == {}, f"longer than {_LINES_AT_MOST} lines and without a reason in _LONG_FILES"
    assert [name for name in _LONG_FILES if name not in long] == [], "no longer long"


def _aliases(module: Module) -> Iterator[str]:
    """Yield each environment variable that a settings class of the module declares."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.keyword) and node.arg == "validation_alias":
            yield from (
                each.value
                for each in ast.walk(node.value)
                if isinstance(each, ast.Constant) and type(each.value) is str
            )


def test_every_environment_variable_is_declared_once() -> None:
    # The runner of the laptop is no service: it passes on, and looks at, what the services read.
    declared = [alias for module in modules("common", "services") for alias in _aliases(module)]
    assert len(declared) > 10
    assert [name for name, count in Counter(declared).items() if count > 1] == []


def test_only_settings_read_the_environment() -> None:
    readers = {
        str(module)
        for module in modules("common", "services")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }
    assert readers - set(_READERS_OF_THE_ENVIRONMENT) == set()


def _is_mutable(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call):
        name = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
        return name in _MUTABLE_CALLS
    return isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)


def _module_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield the statements that run at import, those within ``if`` and ``try`` too."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        statement = waiting.pop(0)
        yield statement
        if isinstance(statement, ast.If | ast.Try | ast.With):
            waiting += [each for each in ast.iter_child_nodes(statement) if isinstance(each, ast.stmt)]


def _mutated(tree: ast.Module) -> set[str]:
    """Return the names of all that is changed in place anywhere in the file."""
    changed: set[str] = set()
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign | ast.Delete):
            targets = [each.value for each in node.targets if isinstance(each, ast.Subscript)]
        elif isinstance(node, ast.AugAssign):
            targets = [node.target.value if isinstance(node.target, ast.Subscript) else node.target]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _MUTATORS:
            targets = [node.func.value]
        changed |= {each.id for each in targets if isinstance(each, ast.Name)}
    return changed


@pytest.mark.parametrize("module", modules("common", "services", "deploy"), ids=str)
def test_no_module_keeps_state(module: Module) -> None:
    found = [ast.unparse(node) for node in ast.walk(module.tree) if isinstance(node, ast.Global)]
    for statement in _module_level(module.tree):
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or not _is_mutable(statement.value):
            continue
        target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
        name = ast.unparse(target)
        final = isinstance(statement, ast.AnnAssign) and "Final" in ast.unparse(statement.annotation)
        if name in _mutated(module.tree) or not (final or name.isupper()):
            found.append(name)
    assert found == []


@pytest.mark.parametrize("module", modules("tests"), ids=str)
def test_no_test_replaces_parts_of_the_code(module: Module) -> None:
    replaced = [
        ast.unparse(node)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("setattr", "delattr", "setitem", "delitem")
        and str(module) not in _REPLACING
    ]
    mocks = [name for name in module.imports if _is_within(name, "mock") or _is_within(name, "unittest.mock")]
    assert replaced + mocks == []
