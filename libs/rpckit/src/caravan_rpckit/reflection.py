"""Server reflection v1 and v1alpha.

The two have the same messages under different package names, and the Python package has v1alpha
alone. So one servicer, with v1alpha's messages, is served under both names, and v1's descriptor is
made from v1alpha's, so that tools can describe what they call.
"""

from collections.abc import AsyncIterator, Iterable

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from grpc_reflection.v1alpha import reflection, reflection_pb2

from caravan_rpckit.call import Call

_ALPHA_PACKAGE = "grpc.reflection.v1alpha"
_V1_PACKAGE = "grpc.reflection.v1"
REFLECTION_NAMES = (f"{_V1_PACKAGE}.ServerReflection", f"{_ALPHA_PACKAGE}.ServerReflection")


class ReflectionServicer:
    """Answers reflection for the named services, its own two included."""

    def __init__(self, service_names: Iterable[str]) -> None:
        _ensure_v1_descriptor()
        self._servicer = reflection.aio.ReflectionServicer([*service_names, *REFLECTION_NAMES])

    def ServerReflectionInfo(  # noqa: N802 (the contract's name)
        self, requests: AsyncIterator[reflection_pb2.ServerReflectionRequest], call: Call
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        """One answer per question."""
        answers: AsyncIterator[reflection_pb2.ServerReflectionResponse] = (
            self._servicer.ServerReflectionInfo(requests, None)
        )
        return answers


def reflection_descriptor() -> ServiceDescriptor:
    """The descriptor whose messages both versions use on the wire."""
    descriptor: ServiceDescriptor = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    return descriptor


def _ensure_v1_descriptor() -> None:
    pool = descriptor_pool.Default()
    try:
        pool.FindServiceByName(REFLECTION_NAMES[0])
    except KeyError:
        pool.Add(_v1_file())


def _v1_file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name = "grpc/reflection/v1/reflection.proto"
    file.package = _V1_PACKAGE
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = _renamed(field.type_name)
    for method in file.service[0].method:
        method.input_type = _renamed(method.input_type)
        method.output_type = _renamed(method.output_type)
    return file


def _renamed(type_name: str) -> str:
    return type_name.replace(f".{_ALPHA_PACKAGE}.", f".{_V1_PACKAGE}.")
