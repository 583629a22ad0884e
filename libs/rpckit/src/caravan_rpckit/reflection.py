"""Server reflection v1 and v1alpha.

The two have the same messages under different package names, and the Python package has v1alpha
alone. So v1 is served by the v1alpha servicer under the other path, and its descriptor is made from
v1alpha's, so that tools can describe what they call.
"""

from collections.abc import AsyncIterator, Iterable

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from grpc_reflection.v1alpha import reflection, reflection_pb2

from caravan_rpckit.call import Call

_ALPHA_PACKAGE = "grpc.reflection.v1alpha"
_V1_PACKAGE = "grpc.reflection.v1"


class ReflectionServicer:
    """Answers reflection for the named services, its own two included."""

    def __init__(self, service_names: Iterable[str]) -> None:
        names = [*service_names, *(d.full_name for d in reflection_services())]
        self._servicer = reflection.aio.ReflectionServicer(names)

    def ServerReflectionInfo(  # noqa: N802 (the contract's name)
        self, requests: AsyncIterator[reflection_pb2.ServerReflectionRequest], call: Call
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        """One answer per question."""
        answers: AsyncIterator[reflection_pb2.ServerReflectionResponse] = (
            self._servicer.ServerReflectionInfo(requests, None)
        )
        return answers


def reflection_services() -> tuple[ServiceDescriptor, ServiceDescriptor]:
    """The descriptors of v1 and v1alpha reflection."""
    alpha = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    return _v1_service(), alpha


def _v1_service() -> ServiceDescriptor:
    pool = descriptor_pool.Default()
    name = f"{_V1_PACKAGE}.ServerReflection"
    try:
        return pool.FindServiceByName(name)
    except KeyError:
        pool.Add(_v1_file())
        return pool.FindServiceByName(name)


def _v1_file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name = "grpc/reflection/v1/reflection.proto"
    file.package = _V1_PACKAGE
    for message in file.message_type:
        for field in message.field:
            field.type_name = _renamed(field.type_name)
    for method in file.service[0].method:
        method.input_type = _renamed(method.input_type)
        method.output_type = _renamed(method.output_type)
    return file


def _renamed(type_name: str) -> str:
    return type_name.replace(f".{_ALPHA_PACKAGE}.", f".{_V1_PACKAGE}.")
