"""Reads from the descriptors what the edge must know: services, RPCs, and the HTTP requests that are made RPCs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from google.api import annotations_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorSet, ServiceDescriptorProto

from deploy.envoy.paths import PathTemplate
from turnpike.edge.v1 import exposure_pb2

_BYTES = ".google.api.HttpBody"
_OWN_PACKAGES = "turnpike."
_WHOLE = "*"


@dataclass(frozen=True)
class Binding:
    """An HTTP method and path that Envoy makes an RPC of."""

    method: str
    path: PathTemplate
    takes_query: bool
    """Whether the query fills fields of the request: it does not where the body is all of it."""


@dataclass(frozen=True)
class Rpc:
    """An RPC with its HTTP bindings, and whether its request is google.api.HttpBody; ``fields`` are the request's."""

    name: str
    bindings: tuple[Binding, ...]
    fields: tuple[str, ...]
    takes_bytes: bool

    @property
    def is_typed(self) -> bool:
        """Whether Envoy reads the request's fields from the path, the query and a JSON body."""
        return not self.takes_bytes


@dataclass(frozen=True)
class Service:
    """A service of the contract; ``exposure`` is a value of turnpike.edge.v1.Exposure."""

    package: str
    name: str
    exposure: int
    rpcs: tuple[Rpc, ...]

    @property
    def full_name(self) -> str:
        """The name that stands in the path of its RPCs."""
        return f"{self.package}.{self.name}"

    @property
    def cluster(self) -> str:
        """The Envoy cluster that serves it: ``chat`` of ``turnpike.chat.v1``."""
        return self.package.split(".")[1]

    @property
    def is_public(self) -> bool:
        """Whether the edge routes it; a service that does not say so is not routed."""
        return self.exposure == exposure_pb2.EXPOSURE_PUBLIC

    @property
    def is_for_grpc_callers(self) -> bool:
        """Whether it has an RPC with messages of its own; pass-through RPCs are for HTTP only."""
        return self.is_public and any(not rpc.takes_bytes for rpc in self.rpcs)

    @property
    def is_transcoded(self) -> bool:
        """Whether Envoy makes HTTP requests its RPCs."""
        return self.is_public and any(rpc.bindings for rpc in self.rpcs)


def read_contract(descriptors: bytes) -> tuple[Service, ...]:
    """Return the services of Turnpike's own packages in a serialized FileDescriptorSet, in its order."""
    files = FileDescriptorSet.FromString(descriptors).file
    messages = {f".{file.package}.{message.name}": message for file in files for message in file.message_type}
    return tuple(
        _service(file.package, service, messages)
        for file in files
        if file.package.startswith(_OWN_PACKAGES)
        for service in file.service
    )


def without_comments(descriptors: bytes) -> bytes:
    """Return the descriptors without source code info, which Envoy does not need."""
    files = FileDescriptorSet.FromString(descriptors)
    for file in files.file:
        file.ClearField("source_code_info")
    return files.SerializeToString(deterministic=True)


def _service(package: str, service: ServiceDescriptorProto, messages: Mapping[str, DescriptorProto]) -> Service:
    rpcs = (
        Rpc(
            name=method.name,
            bindings=tuple(_bindings(method.options.Extensions[annotations_pb2.http])),
            fields=tuple(field.name for field in messages[method.input_type].field),
            takes_bytes=method.input_type == _BYTES,
        )
        for method in service.method
    )
    exposure = service.options.Extensions[exposure_pb2.exposure]
    return Service(package=package, name=service.name, exposure=exposure, rpcs=tuple(rpcs))


def _bindings(rule: HttpRule) -> Iterator[Binding]:
    kind = rule.WhichOneof("pattern")
    if kind == "custom":
        yield Binding(rule.custom.kind, PathTemplate(rule.custom.path), takes_query=rule.body != _WHOLE)
    elif kind is not None:
        yield Binding(kind.upper(), PathTemplate(getattr(rule, kind)), takes_query=rule.body != _WHOLE)
    for more in rule.additional_bindings:
        yield from _bindings(more)
