"""The messages of gRPC, from `descriptors.binpb`, which `make protos` makes of the `.proto` files beside it.

They have a pool of their own. Client libraries bring messages of the same names, which the pool that everybody shares can
hold only once: a process may use them and this server.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from serving.errors import malformed

SET: Final = Path(__file__).with_name("descriptors.binpb")
POOL: Final = DescriptorPool()

for _file in FileDescriptorSet.FromString(SET.read_bytes()).file:
    POOL.Add(_file)


def message(name: str) -> Any:
    """The class of a message, by its full name."""
    return GetMessageClass(POOL.FindMessageTypeByName(name))


def read(kind: Any, data: bytes) -> Any:
    """A message of the class `kind` from its bytes.

    Raises:
        RequestError: MALFORMED, they are none.
    """
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise malformed(f"The {len(data)} bytes are no {kind.DESCRIPTOR.full_name}.") from error
