"""Sends hostile messages to every public method, and judges the answers."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import grpc
import hypothesis
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from hma.v1 import admin_pb2, meta_agent_pb2, meta_agent_pb2_grpc
from tests.fuzz.messages import encodings, messages, perturbed

_SERVICES = ("MetaAgentService", "AdminService")
_PATIENCE_S = 10.0
_READ = 20
_CODE = grpc.StatusCode
_FAULTS = {_CODE.INTERNAL, _CODE.UNKNOWN, _CODE.DATA_LOSS, _CODE.UNAVAILABLE}
# These may wait, as long as the caller says.
_PATIENT = {"CreateJob", "GetJob", "WatchJob"}


@dataclass
class GrpcFuzz:
    """What was sent and what came back.

    Attributes:
        address: host:port of the gateway.
        metadata: Sent with each call, a key say.
        codes: How often each method ended with each code.
        ids: Jobs that exist.
    """

    address: str
    metadata: tuple[tuple[str, str], ...] = ()
    codes: Counter[tuple[str, str]] = field(default_factory=Counter)
    ids: list[str] = field(default_factory=list)

    def run(self, inputs: int, seed: int) -> None:
        """Sends that many messages.

        Raises:
            AssertionError: One was answered as none may be; it is the smallest such.
        """
        with grpc.insecure_channel(self.address) as channel:
            self._make_jobs(channel)

            @hypothesis.seed(seed)
            @settings(
                max_examples=inputs,
                deadline=None,
                database=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            )
            @hypothesis.given(self._calls())
            def send(call: tuple[MethodDescriptor, bytes]) -> None:
                self._send(channel, *call)

            send()

    @property
    def sent(self) -> int:
        """How many inputs were sent."""
        return self.codes.total()

    def summary(self) -> Counter[str]:
        """How often each code came back."""
        counts: Counter[str] = Counter()
        for (_, code), count in self.codes.items():
            counts[code] += count
        return counts

    def _make_jobs(self, channel: grpc.Channel) -> None:
        stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
        for number in range(3):
            request = _good_job(f"fuzz-{number}")
            answer = stub.CreateJob(request, metadata=self.metadata, timeout=_PATIENCE_S)
            self.ids.append(answer.job_id)

    def _calls(self) -> st.SearchStrategy[tuple[MethodDescriptor, bytes]]:
        files = (meta_agent_pb2.DESCRIPTOR, admin_pb2.DESCRIPTOR)
        services = [each for file in files for each in file.services_by_name.values()]
        methods = [m for each in services if each.name in _SERVICES for m in each.methods]
        return st.one_of([st.tuples(st.just(each), self._requests(each)) for each in methods])

    def _requests(self, method: MethodDescriptor) -> st.SearchStrategy[bytes]:
        kind: Any = message_factory.GetMessageClass(method.input_type)

        def base() -> Message:
            message: Message = kind()
            if isinstance(message, meta_agent_pb2.CreateJobRequest):
                message.CopyFrom(_good_job(""))
            elif "job_id" in method.input_type.fields_by_name:
                message.job_id = self.ids[-1]  # type: ignore[attr-defined]
            return message

        hostile = messages(method.input_type, lambda: self.ids)
        almost_good = perturbed(st.builds(base), lambda: self.ids)
        return encodings(st.one_of(almost_good, hostile))

    def _send(self, channel: grpc.Channel, method: MethodDescriptor, data: bytes) -> None:
        path = f"/{method.containing_service.full_name}/{method.name}"
        stubs: Any = channel  # without a serializer: bytes are what is sent
        patience = 0.3 if method.name in _PATIENT else _PATIENCE_S
        code, details, began = _CODE.OK, "", time.monotonic()
        try:
            if method.server_streaming:
                stream = stubs.unary_stream(path)(data, metadata=self.metadata, timeout=patience)
                for number, _ in enumerate(stream):
                    if number >= _READ:
                        stream.cancel()
                        break
            else:
                stubs.unary_unary(path)(data, metadata=self.metadata, timeout=patience)
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            if "RST_STREAM" in details and time.monotonic() - began >= 0.9 * patience:
                # All ends see the deadline at the same moment; the gateway's reset, which says
                # no more than that, may be here before the client's own clock.
                code = _CODE.DEADLINE_EXCEEDED
        self.codes[method.name, code.name] += 1
        # On a busy machine even a quick call may miss the short deadline of patient ones.
        late = code is _CODE.DEADLINE_EXCEEDED and method.name not in _PATIENT
        what = f"{path} answered {code.name} ({details}) to {method.input_type.name} {data!r}"
        assert code not in _FAULTS, what
        assert not late, what


def _good_job(request_id: str) -> meta_agent_pb2.CreateJobRequest:
    request = meta_agent_pb2.CreateJobRequest(request_id=request_id)
    request.job.task_description = "In which year was the mill built?"
    request.job.documents.add(name="mills.md", text="The mill was built in 1764.")
    request.job.budget.max_tokens = 5000
    request.job.budget.deadline.seconds = 20
    return request
