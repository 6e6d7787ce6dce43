"""Envoy's own replies in the shape of google.rpc.Status, as the services' are.

Clients of HTTP get the status as JSON. gRPC clients get code and message, and where a
limit was reached also the details: Envoy itself would call that UNAVAILABLE, and clients
that retry at once would make the flood worse.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf import json_format

from hma.errors import Overloaded
from hma.rpc.status import DETAILS_KEY, to_status

RETRY_AFTER_S = 1
"""Every bucket has a token again after this."""

# HTTP status of Envoy's own replies -> google.rpc.Code of the same meaning, and a sentence
# where Envoy's own words would not help.
_REPLIES: dict[int, tuple[int, str]] = {
    400: (3, ""),
    401: (16, ""),
    403: (7, ""),
    404: (
        5,
        "Nothing answers %REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD)% at this path. "
        "Jobs are at /v1/jobs, metrics at /metrics, health at /healthz, what else there is "
        "at /openapi.json.",
    ),
    408: (4, ""),
    413: (3, "The request is larger than 48 MiB. Send fewer or smaller documents."),
    415: (3, ""),
    429: (8, ""),
    431: (3, "The head of the request is too large."),
    503: (14, "No MetaAgent is ready. It may be starting; try again in a few seconds."),
    504: (4, "The time limit of this call has passed."),
}
_UNKNOWN = 2

# Why Envoy refused (%RESPONSE_CODE_DETAILS% begins so) -> what the caller is told.
_LIMITS: Mapping[str, Overloaded] = {
    "local_rate_limited": Overloaded(
        "Too many requests. Send fewer per second.",
        reason="RATE_LIMITED",
        retry_after=RETRY_AFTER_S,
    ),
    "upstream_reset_before_response_started{overflow": Overloaded(
        "Too many requests are open at once. Try again when some have ended.",
        reason="GATEWAY_FULL",
        retry_after=RETRY_AFTER_S,
    ),
    "overload": Overloaded(
        "The gateway is short of memory. Try again later.",
        reason="GATEWAY_OVERLOADED",
        retry_after=RETRY_AFTER_S,
    ),
}


def public_mappers() -> list[dict[str, Any]]:
    """What Envoy answers by itself on the public listener, the first that fits.

    A transcoded request looks like gRPC by then, but keeps its path in a header.
    """
    json_client = _or(
        _header("content-type", string_match={"prefix": "application/grpc"}, invert_match=True),
        _header("x-envoy-original-path", present_match=True),
    )
    # By the MetaAgent, which has written the whole body.
    refused = {"response_flag_filter": {"flags": ["UAEX"]}}
    return [
        *(_as_it_is(_and(_status(status), refused, json_client)) for status in (401, 403)),
        _as_it_is(_and(_status(200), _header(":path", string_match={"prefix": "/openapi.json"}))),
        _mapper(_and(_status(200), json_client), {"status": "SERVING"}),
        *_limit_replies(json_client),
        _mapper(
            _and(_because("path_normalization_failed"), json_client),
            _rpc_status(3, "The path holds an escaped slash or backslash."),
        ),
        *(
            _mapper(_and(_status(status), json_client), _rpc_status(code, sentence))
            for status, (code, sentence) in _REPLIES.items()
        ),
        _mapper(json_client, _rpc_status(_UNKNOWN, "")),
        # To gRPC clients Envoy calls these INTERNAL and UNKNOWN.
        *(
            {"filter": _status(status), "headers_to_add": [_set("grpc-status", str(code))]}
            for status, (code, _) in _REPLIES.items()
            if status in (400, 408, 413, 431)
        ),
    ]


def internal_mappers() -> list[dict[str, Any]]:
    """What Envoy answers by itself on the internal listener: gRPC only."""
    return list(_grpc_limit_replies())


def _limit_replies(json_client: dict[str, Any]) -> Iterable[dict[str, Any]]:
    for why, error in _LIMITS.items():
        body = json_format.MessageToDict(to_status(error), preserving_proto_field_name=True)
        yield {
            **_mapper(_and(_because(why), json_client), body),
            "status_code": 429,
            "headers_to_add": [_set("retry-after", str(RETRY_AFTER_S))],
        }
    yield from _grpc_limit_replies()


def _grpc_limit_replies() -> Iterable[dict[str, Any]]:
    """Whole gRPC responses: of 429 Envoy's gRPC-Web filter would make UNAVAILABLE again."""
    for why, error in _LIMITS.items():
        status = to_status(error)
        # Base64 without padding, as gRPC writes binary metadata.
        details = base64.b64encode(status.SerializeToString()).decode().rstrip("=")
        yield {
            "filter": _because(why),
            "status_code": 200,
            "body": {"inline_string": ""},
            "headers_to_add": [
                _set("content-type", "application/grpc"),
                _set("grpc-status", str(status.code)),
                _set("grpc-message", status.message),
                _set(DETAILS_KEY, details),
                _set("retry-after", str(RETRY_AFTER_S)),
            ],
        }


def _rpc_status(code: int, sentence: str) -> dict[str, Any]:
    return {"code": code, "message": sentence or "%LOCAL_REPLY_BODY%", "details": []}


def _mapper(when: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    return {
        "filter": when,
        "body_format_override": {"json_format": body, "content_type": "application/json"},
    }


def _as_it_is(when: dict[str, Any]) -> dict[str, Any]:
    body = {"inline_string": "%LOCAL_REPLY_BODY%"}
    return {
        "filter": when,
        "body_format_override": {"text_format_source": body, "content_type": "application/json"},
    }


def _set(name: str, value: str) -> dict[str, Any]:
    return {
        "header": {"key": name, "value": value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }


def _and(*filters: dict[str, Any]) -> dict[str, Any]:
    return {"and_filter": {"filters": list(filters)}}


def _or(*filters: dict[str, Any]) -> dict[str, Any]:
    return {"or_filter": {"filters": list(filters)}}


def _header(name: str, **match: Any) -> dict[str, Any]:
    header = {"name": name, "treat_missing_header_as_empty": "string_match" in match, **match}
    return {"header_filter": {"header": header}}


def _because(details: str) -> dict[str, Any]:
    kind = "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"
    return {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": {
                "@type": kind,
                "expression": f"response.code_details.startsWith('{details}')",
            },
        }
    }


def _status(status: int) -> dict[str, Any]:
    value = {"default_value": status, "runtime_key": f"hma.local_reply_{status}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}
