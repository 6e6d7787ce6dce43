"""The contracts as a FileDescriptorSet: for Envoy's transcoder and for grpcurl.

Made from the generated code, so it needs no protoc and cannot disagree with it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from google.rpc import error_details_pb2, status_pb2

from hma.v1 import (
    admin_pb2,
    analyst_pb2,
    attempt_pb2,
    common_pb2,
    job_pb2,
    meta_agent_pb2,
    reducer_pb2,
    task_pb2,
    worker_pb2,
)

_ROOTS = (
    common_pb2,
    task_pb2,
    attempt_pb2,
    job_pb2,
    meta_agent_pb2,
    admin_pb2,
    analyst_pb2,
    worker_pb2,
    reducer_pb2,
    # Errors carry these as Any: without them Envoy answers an empty body.
    status_pb2,
    error_details_pb2,
)


def descriptor_set() -> descriptor_pb2.FileDescriptorSet:
    """Every HMA proto with all it imports, each file after its imports."""
    result = descriptor_pb2.FileDescriptorSet()
    seen: set[str] = set()

    def add(file: FileDescriptor) -> None:
        if file.name in seen:
            return
        seen.add(file.name)
        for dependency in file.dependencies:
            add(dependency)
        result.file.add().ParseFromString(file.serialized_pb)

    for module in _ROOTS:
        add(module.DESCRIPTOR)
    return result


def write_descriptor_set(path: Path) -> None:
    """Writes the set to `path`, making its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(descriptor_set().SerializeToString(deterministic=True))


if __name__ == "__main__":
    write_descriptor_set(Path(sys.argv[1]))
