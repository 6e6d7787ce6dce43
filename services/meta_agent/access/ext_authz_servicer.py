"""Answers Envoy's question whether a request may pass (envoy.service.auth.v3)."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from google.protobuf import json_format
from google.rpc import status_pb2

from hma.errors import HmaError, PermissionDenied, Unauthenticated, Unavailable
from hma.ext_authz.v1 import ext_authz_pb2
from hma.rpc.internal_keys import is_gateway
from hma.rpc.status import DETAILS_KEY, code_of, to_status
from services.meta_agent.access.caller import Caller
from services.meta_agent.access.claims import NAMESPACE
from services.meta_agent.access.doorkeeper import Doorkeeper
from services.meta_agent.access.identity import HEADER, REQUEST_ID, Identities
from services.meta_agent.access.observing import AccessObserver
from services.meta_agent.access.refusing import Refusal
from services.meta_agent.access.roles import least_role_of_route

Context = grpc.aio.ServicerContext[Any, Any]

SERVICE = "envoy.service.auth.v3.Authorization"
_CALLER = "x-hma-caller"
_SECRETS = ("authorization", "x-api-key")
_ADDRESS = "x-envoy-external-address"
_OVERWRITE = 2
# gateway/envoy.yaml has it, too.
_ROUTE_ROLE = "least_role"
_MOST_PATH_CHARS = 200
_log = logging.getLogger(__name__)


class ExtAuthzServicer:
    """Serves `Authorization/Check` to the gateway of this installation, and to nobody else."""

    def __init__(
        self,
        doorkeeper: Doorkeeper,
        identities: Identities,
        internal_keys: Callable[[], Sequence[bytes]],
        observer: AccessObserver,
    ) -> None:
        """Answers nothing yet.

        Args:
            doorkeeper: Says who makes a request.
            identities: Signs who it is.
            internal_keys: What the gateway's credential may be made from now.
            observer: Told of refusals.
        """
        self._doorkeeper = doorkeeper
        self._identities = identities
        self._internal_keys = internal_keys
        self._observer = observer

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the service, by Envoy's name for it, to a server."""
        handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
            self.Check,
            request_deserializer=ext_authz_pb2.CheckRequest.FromString,
            response_serializer=ext_authz_pb2.CheckResponse.SerializeToString,
        )
        generic = grpc.method_handlers_generic_handler(SERVICE, {"Check": handler})
        server.add_generic_rpc_handlers((generic,))

    async def Check(
        self, request: ext_authz_pb2.CheckRequest, context: Context
    ) -> ext_authz_pb2.CheckResponse:
        """Says whether a request may pass, and as whose."""
        self._check_gateway(context)
        attributes = request.attributes
        http = attributes.request.http
        # Without its header it is the peer of the connection, which may be a load balancer.
        address = http.headers.get(_ADDRESS) or attributes.source.address.socket_address.address
        request_id = http.headers.get(REQUEST_ID, "")
        caller = None
        try:
            caller = await self._doorkeeper.identify(
                http.headers,
                _token(attributes.metadata_context),
                address=address,
                request_id=request_id,
            )
            caller.require(least_role_of_route(attributes.context_extensions.get(_ROUTE_ROLE, "")))
        except Refusal as refusal:
            error, subject, tenant = refusal.error, refusal.subject, refusal.tenant
        except PermissionDenied as denied:
            error = denied
            subject, tenant = (caller.subject, caller.tenant) if caller else ("", "")
        except Unavailable as away:
            # Nobody was refused: there is nothing to record.
            return _denied(away, http.headers)
        else:
            return self._passed(caller)
        self._observer.denied(
            subject=subject,
            tenant=tenant,
            method=_what(http),
            address=address,
            request_id=request_id,
            reason=error.reason,
            code=code_of(error).name,
        )
        return _denied(error, http.headers)

    def _check_gateway(self, context: Context) -> None:
        shown = [v for name, v in context.invocation_metadata() or () if name == _CALLER]
        if len(shown) == 1 and isinstance(shown[0], str):
            if is_gateway(shown[0], self._internal_keys()):
                return
            # As long as it is so, nobody gets in.
            _log.error("the gateway's credential is not made from HMA_INTERNAL_KEY_FILE")
        error = Unauthenticated("Only the gateway may ask this.", reason="NOT_THE_GATEWAY")
        self._observer.denied(
            subject="",
            tenant="",
            method="Check",
            address=context.peer(),
            request_id="",
            reason=error.reason,
            code=code_of(error).name,
        )
        raise error

    def _passed(self, caller: Caller) -> ext_authz_pb2.CheckResponse:
        ok = ext_authz_pb2.OkHttpResponse(headers_to_remove=_SECRETS)
        identity = self._identities.of(caller)
        _add(ok.headers, HEADER, identity)
        response = ext_authz_pb2.CheckResponse(status=status_pb2.Status(), ok_response=ok)
        # For gateway/known_callers.lua, which cannot see the header: it does not run in between.
        response.dynamic_metadata.update({"tenant": caller.tenant, "identity": identity})
        return response


def _denied(error: HmaError, headers: Any) -> ext_authz_pb2.CheckResponse:
    """What a client is answered: a gRPC status, or the same as JSON."""
    status = to_status(error)
    denied = ext_authz_pb2.DeniedHttpResponse(
        status=ext_authz_pb2.HttpStatus(code=_http_status(error))
    )
    if isinstance(error, Unauthenticated):
        _add(denied.headers, "www-authenticate", _challenge(error))
    if isinstance(error, Unavailable):
        _add(denied.headers, "retry-after", "1")
    if headers.get("content-type", "").startswith("application/grpc"):
        details = base64.b64encode(status.SerializeToString()).decode().rstrip("=")
        _add(denied.headers, DETAILS_KEY, details)
        denied.body = status.message
    else:
        denied.body = json_format.MessageToJson(
            status, preserving_proto_field_name=True, indent=None
        )
    return ext_authz_pb2.CheckResponse(
        status=status_pb2.Status(code=status.code), denied_response=denied
    )


def _http_status(error: HmaError) -> int:
    if isinstance(error, Unavailable):
        return 503
    return 403 if isinstance(error, PermissionDenied) else 401


def _challenge(error: HmaError) -> str:
    """RFC 6750, section 3: without credentials no error is named."""
    if error.reason == "NO_CREDENTIALS":
        return 'Bearer realm="hma"'
    return f'Bearer realm="hma", error="invalid_token", error_description="{error.reason}"'


def _token(metadata: ext_authz_pb2.Metadata) -> dict[str, Any]:
    """What jwt_authn has said, as plain values."""
    if NAMESPACE not in metadata.filter_metadata:
        return {}
    found: dict[str, Any] = json_format.MessageToDict(metadata.filter_metadata[NAMESPACE])
    return found


def _what(http: Any) -> str:
    """Verb and path, without a query, which may hold anything."""
    return f"{http.method} {http.path.partition('?')[0]}"[:_MOST_PATH_CHARS]


def _add(headers: Any, name: str, value: str) -> None:
    headers.add(header=ext_authz_pb2.HeaderValue(key=name, value=value), append_action=_OVERWRITE)
