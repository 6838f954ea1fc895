"""The rules of the house, checked on the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import pytest

from tests.architecture.source import REPOSITORY, Module, modules, services

_TRANSPORT: Final = ("grpc", "google.protobuf", "google.rpc", "google.api", "fastapi", "turnpike")
"""What a core must not know: gRPC, protobuf, FastAPI, and the generated code."""
_KNOWING_TRANSPORT: Final = (
    *("common/serving/", "common/identity/remote.py"),
    *("common/metering/event_proto.py", "common/metering/outbox.py", "common/metering/shipper.py"),
    *("common/metering/journal_record.py", "common/metering/rejected.py"),
)
"""What of common knows it: a room, and the modules that speak with other services or keep their messages."""
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


_IMPORT_EACH: Final = """
import importlib, sys
transport = sys.argv[1].split(",")
known = set()
for name in sys.argv[2:]:
    importlib.import_module(name)
    found = {each for each in sys.modules for package in transport if each == package or each.startswith(package + ".")}
    if found - known:
        print(name, "imports", min(found - known))
    known |= found
"""


def _transport_of(names: Iterable[str]) -> list[str]:
    """Import the modules one after the other in a fresh interpreter; return which of them bring the transport in."""
    run = subprocess.run(
        [sys.executable, "-c", _IMPORT_EACH, ",".join(_TRANSPORT), *names],
        cwd=REPOSITORY,
        env={"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'gen'}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def _is_free_of_transport(module: Module) -> bool:
    return not str(module).startswith(_KNOWING_TRANSPORT)


def test_what_should_not_know_its_transport_does_not_even_load_it() -> None:
    cores = [f"services.{service}.core" for service in services()]
    shared = [module.name for module in modules("common") if _is_free_of_transport(module)]
    assert len(shared) > 20
    assert _transport_of([*cores, *shared]) == []


def test_a_module_that_loads_its_transport_through_another_is_found() -> None:
    assert _transport_of(["common.errors", "common.metering.rejected"]) != []


def _compared_texts(tree: ast.Module) -> Iterator[str]:
    """Yield each comparison, membership test and pattern that has a text in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.MatchValue | ast.MatchMapping):
            constants = (each.value for each in ast.walk(node) if isinstance(each, ast.Constant))
            if any(isinstance(value, str | bytes) and value for value in constants):
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "startswith":
            yield ast.unparse(node)


def test_the_relay_asks_nobody_for_a_name() -> None:
    # Dialects, providers and operations bring what is special about them; the relay treats all alike.
    relay = Module(Path("common/relay.py"))
    assert list(_compared_texts(relay.tree)) == []
    rooms = ("common.dialects", "common.providers")
    named = {name.split(".")[2] for name in relay.imports for room in rooms if _is_within(name, room)}
    assert named <= {"dialect", "provider", "upstream_errors"}, "the relay knows one of them by its module"


def test_a_comparison_with_a_name_is_found() -> None:
    for text in ("if name == 'openai': pass", "x = name in ('a', 'b')", "match name:\n case 'a': pass"):
        assert list(_compared_texts(ast.parse(text))) != []
    assert list(_compared_texts(ast.parse("if status >= 400 and body == b'' and left is None: pass"))) == []


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


def test_services_reach_each_other_through_one_kind_of_channel() -> None:
    openers = {
        str(module)
        for module in modules("common", "services")
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and node.attr in ("insecure_channel", "secure_channel")
    }
    assert openers == {"common/serving/channel.py"}


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
