"""Server reflection: what a server offers, for clients that have no `.proto` file, such as grpcurl.

https://github.com/grpc/grpc/blob/master/doc/server-reflection.md
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.descriptor import FileDescriptor

from serving.protocols import protos
from serving.protocols.grpc import Code

# The versions of the protocol differ in their names alone.
REQUEST: Final = protos.message("grpc.reflection.v1.ServerReflectionRequest")
RESPONSE: Final = protos.message("grpc.reflection.v1.ServerReflectionResponse")
SERVICES: Final = (
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "inference.GRPCInferenceService",
)


def answer(message: bytes) -> bytes:
    """What is answered to one question of a ServerReflectionInfo.

    Raises:
        RequestError: MALFORMED, it is none.
    """
    request = protos.read(REQUEST, message)
    response = RESPONSE(valid_host=request.host, original_request=request, **_find(request))
    answered: bytes = response.SerializeToString()
    return answered


def _find(request: Any) -> dict[str, Any]:
    asked = request.WhichOneof("message_request")
    try:
        match asked:
            case "list_services":
                return {"list_services_response": {"service": [{"name": name} for name in SERVICES]}}
            case "file_by_filename":
                return _file(protos.POOL.FindFileByName(request.file_by_filename))
            case "file_containing_symbol":
                return _file(protos.POOL.FindFileContainingSymbol(request.file_containing_symbol))
            case "all_extension_numbers_of_type":
                name = request.all_extension_numbers_of_type
                protos.POOL.FindMessageTypeByName(name)
                return {"all_extension_numbers_response": {"base_type_name": name}}
            case "file_containing_extension":
                raise KeyError("Messages have no extensions here.")
    except KeyError as error:
        return _error(Code.NOT_FOUND, str(error.args[0]))
    return _error(Code.INVALID_ARGUMENT, "The request asks for nothing.")


def _file(found: FileDescriptor) -> dict[str, Any]:
    """It needs no other file."""
    return {"file_descriptor_response": {"file_descriptor_proto": [found.serialized_pb]}}


def _error(code: Code, message: str) -> dict[str, Any]:
    return {"error_response": {"error_code": code, "error_message": message}}
