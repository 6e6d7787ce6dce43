"""Who may call: keys and tokens through the real gateway, with a stack that asks for them.

The model server is none: jobs are made and wait.
"""

from __future__ import annotations

import http.client
import json
import stat
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

import hma
from hma.errors import HmaError, NotFound, PermissionDenied, Unauthenticated
from hma.local.access import make_first_key
from hma.rpc.status import from_rpc_error
from hma.rpc.tokens import TokenKeys
from hma.v1 import admin_pb2, job_pb2, meta_agent_pb2, meta_agent_pb2_grpc
from tests.e2e.conftest import BIN, Stack, running_stack
from tests.issuer import AUDIENCE, ISSUER, Issuer


@dataclass(frozen=True)
class Reply:
    """What came back over HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def reason(self) -> str:
        """ErrorInfo's reason."""
        return str(json.loads(self.body)["details"][0]["reason"])


@dataclass(frozen=True)
class Door:
    """The stack, and what gets one in."""

    stack: Stack
    issuer: Issuer
    operator: str

    def client(self, key: str) -> hma.Client:
        """A client with a key; close it."""
        return hma.Client(self.stack.address, api_key=key, timeout=30)

    def key(self, **how: Any) -> admin_pb2.CreateKeyResponse:
        """A new key."""
        with self.client(self.operator) as client:
            return client.keys.create(**how)

    def http(
        self, method: str, path: str, body: bytes | str | None = None, **headers: str
    ) -> Reply:
        """One HTTP/1.1 call; `x_api_key` and the like name headers."""
        connection = http.client.HTTPConnection(self.stack.address, timeout=30)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            response = connection.getresponse()
            got = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, got, response.read())
        finally:
            connection.close()

    def with_token(self, token: str) -> Reply:
        """A call with a bearer token."""
        return self.http("GET", "/v1/jobs", authorization=f"Bearer {token}")

    def refusal(self, *metadata: tuple[str, str]) -> HmaError:
        """What a gRPC call with such metadata is refused with."""
        with grpc.insecure_channel(self.stack.address) as channel:
            stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
            with pytest.raises(grpc.RpcError) as error:
                stub.ListJobs(meta_agent_pb2.ListJobsRequest(), timeout=30, metadata=metadata)
        return from_rpc_error(error.value)


@pytest.fixture(scope="module")
def door(open_directory: Path) -> Iterator[Door]:
    """A stack that asks who calls."""
    issuer = Issuer()
    keys = open_directory / "jwks.json"
    keys.write_text(issuer.key_set())
    with running_stack(
        open_directory / "access",
        HMA_AUTH="on",
        HMA_LLM_BASE_URL="http://127.0.0.1:1/v1",
        HMA_LOCAL_WORKERS="1",
        HMA_JWT_ISSUER=ISSUER,
        HMA_JWT_AUDIENCE=AUDIENCE,
        HMA_JWT_JWKS_FILE=str(keys),
    ) as stack:
        key = (stack.directory / "var" / "access" / "key").read_text().strip()
        yield Door(stack, issuer, key)


def until_refused(call: Callable[[], object]) -> HmaError:
    """Calls until it is refused; with what."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            call()
        except Unauthenticated as error:
            return error
        time.sleep(0.05)
    raise AssertionError("still answered")


def test_the_first_key_is_the_owners_alone_and_said_how_to_use(door: Door) -> None:
    directory = door.stack.directory
    for name in ("access/key", "access/internal-key", "gateway/envoy.json"):
        mode = stat.S_IMODE((directory / "var" / name).stat().st_mode)
        assert mode == 0o600, name
    said = (directory / "up.log").read_text()
    assert f"export HMA_API_KEY_FILE={directory / 'var' / 'access' / 'key'}" in said
    assert door.operator not in said


def test_the_first_key_is_kept_as_long_as_it_works(door: Door) -> None:
    settings = door.stack.settings
    path = make_first_key(settings, {})
    assert path.read_text().strip() == door.operator
    try:
        path.write_text(door.key(lifetime="1ms").secret)
        assert make_first_key(settings, {"HMA_DEFAULT_TENANT": "house"}) == path
        with door.client(path.read_text().strip()) as client:
            assert {key.tenant for key in client.keys.list()} == {"house"}
            assert list(client.keys.list("*"))
    finally:
        path.write_text(door.operator + "\n")


def test_a_call_without_a_key_is_told_how_to_get_one(door: Door) -> None:
    reply = door.http("GET", "/v1/jobs")
    assert (reply.status, reply.reason) == (401, "NO_CREDENTIALS")
    assert reply.headers["www-authenticate"] == 'Bearer realm="hma"'
    assert reply.headers["content-type"] == "application/json"
    assert json.loads(reply.body)["code"] == 16
    assert "hma keys create" in json.loads(reply.body)["message"]

    refused = door.refusal()
    assert isinstance(refused, Unauthenticated)
    assert refused.reason == "NO_CREDENTIALS"
    assert "hma keys create" in refused.message


def test_grpc_web_clients_get_a_grpc_status_of_their_own(door: Door) -> None:
    frame = struct.pack(">BI", 0, 0)
    refused = door.http(
        "POST",
        "/hma.v1.MetaAgentService/ListJobs",
        frame,
        content_type="application/grpc-web+proto",
        x_grpc_web="1",
    )
    assert refused.headers["grpc-status"] == "16"
    passed = door.http(
        "POST",
        "/hma.v1.MetaAgentService/ListJobs",
        frame,
        content_type="application/grpc-web+proto",
        x_grpc_web="1",
        authorization=f"Bearer {door.operator}",
    )
    assert passed.status == 200
    assert b"grpc-status:0" in passed.body.replace(b" ", b"")


def test_unknown_keys_and_wrong_secrets_are_told_apart_by_nobody(door: Door) -> None:
    made = door.key()
    secret = made.secret.rpartition("_")[2]
    wrong = made.secret.removesuffix(secret) + secret[::-1]
    unknown = f"hma_{'0' * 12}_{secret}"
    for field in ("x_api_key", "authorization"):
        bearer = "Bearer " if field == "authorization" else ""
        replies = [
            door.http("GET", "/v1/jobs", **{field: bearer + key})
            for key in (wrong, unknown, "hma_short", f"hma_{made.key.key_id}_")
        ]
        assert {reply.status for reply in replies} == {401}
        assert len({reply.body for reply in replies}) == 1
        assert replies[0].reason == "KEY_UNKNOWN"


def test_headers_that_only_the_gateway_sets_do_nothing(door: Door) -> None:
    internal = (door.stack.directory / "var/access/internal-key").read_bytes().strip()
    genuine = TokenKeys([internal]).sign("service:cli", "meta-agent", tenant="acme", role=4)
    forged = TokenKeys([b"x" * 32]).sign("service:cli", "meta-agent", tenant="acme", role=4)
    for identity in (genuine, forged, "x"):
        for name in ("x-hma-identity", "X-HMA-Identity"):
            reply = door.http("GET", "/v1/jobs", **{name: identity, "x-hma-tenant": "acme"})
            assert (reply.status, reply.reason) == (401, "NO_CREDENTIALS")
        refused = door.refusal(("x-hma-identity", identity), ("x-hma-caller", "gateway.0"))
        assert refused.reason == "NO_CREDENTIALS"

    # With a key of their own they are who the key says.
    reader = door.key(tenant="acme", role="reader").secret
    job = door.http(
        "POST",
        "/submit",
        json.dumps(door.stack.job()),
        authorization=f"Bearer {reader}",
        x_hma_identity=genuine,
        x_hma_tenant="default",
    )
    assert (job.status, job.reason) == (403, "PERMISSION_DENIED")


def test_two_credentials_are_one_too_many(door: Door) -> None:
    reply = door.http(
        "GET", "/v1/jobs", authorization=f"Bearer {door.operator}", x_api_key=door.operator
    )
    assert (reply.status, reply.reason) == (401, "TWO_CREDENTIALS")
    twice = f"Bearer {door.operator},Bearer {door.operator}"
    assert door.http("GET", "/v1/jobs", authorization=twice).reason == "KEY_UNKNOWN"
    basic = door.http("GET", "/v1/jobs", authorization="Basic aGk6aGk=")
    assert basic.reason == "NO_BEARER"


def test_a_revoked_key_stops_working(door: Door) -> None:
    made = door.key()
    with door.client(made.secret) as client, door.client(door.operator) as operator:
        list(client.list(limit=1))
        revoked = operator.keys.revoke(made.key.key_id)
        # That it is told and not only forgotten in time: tests/integration/access.
        error = until_refused(lambda: list(client.list(limit=1)))
        assert error.reason == "KEY_REVOKED"
        # Again changes nothing.
        assert operator.keys.revoke(made.key.key_id) == revoked
    assert door.http("GET", "/v1/jobs", x_api_key=made.secret).reason == "KEY_REVOKED"


def test_a_rotated_key_works_with_both_secrets_for_the_grace(door: Door) -> None:
    made = door.key()
    with door.client(door.operator) as operator, door.client(made.secret) as old:
        list(old.list(limit=1))
        rotated = operator.keys.rotate(made.key.key_id, "6s")
        assert rotated.key.key_id == made.key.key_id
        with door.client(rotated.secret) as new:
            list(new.list(limit=1))
            list(old.list(limit=1))
            error = until_refused(lambda: list(old.list(limit=1)))
            assert error.reason == "KEY_ROTATED"
            list(new.list(limit=1))
            # Without grace the old one ends at once.
            operator.keys.rotate(made.key.key_id)
            error = until_refused(lambda: list(new.list(limit=1)))
            assert error.reason == "KEY_UNKNOWN"


def test_revoking_a_rotated_key_ends_both_of_its_secrets(door: Door) -> None:
    made = door.key()
    with door.client(door.operator) as operator:
        rotated = operator.keys.rotate(made.key.key_id, "1h")
        assert rotated.key.HasField("old_secret_expire_time")
        revoked = operator.keys.revoke(made.key.key_id)
        assert not revoked.HasField("old_secret_expire_time")
    for secret in (made.secret, rotated.secret):
        assert door.http("GET", "/v1/jobs", x_api_key=secret).reason == "KEY_REVOKED"


def test_a_key_expires(door: Door) -> None:
    made = door.key(lifetime="5s")
    with door.client(made.secret) as client:
        list(client.list(limit=1))
        error = until_refused(lambda: list(client.list(limit=1)))
    assert error.reason == "KEY_EXPIRED"
    with door.client(door.operator) as operator, pytest.raises(HmaError) as rotated:
        operator.keys.rotate(made.key.key_id)
    assert rotated.value.reason == "KEY_EXPIRED"


def test_each_role_may_what_it_may_and_no_more(door: Door) -> None:
    keys = {
        role: door.key(tenant="roles", role=role).secret
        for role in ("reader", "user", "admin", "operator")
    }

    def allowed(role: str, call: Callable[[hma.Client], object]) -> bool:
        with door.client(keys[role]) as client:
            try:
                call(client)
            except PermissionDenied:
                return False
        return True

    calls: dict[str, Callable[[hma.Client], object]] = {
        "reader": lambda client: list(client.list(limit=1)),
        "user": lambda client: client.submit("Why?", budget=2000),
        "admin": lambda client: list(client.keys.list()),
        "operator": lambda client: list(client.keys.list("*")),
    }
    roles = list(keys)
    for least, call in calls.items():
        for role in roles:
            assert allowed(role, call) == (roles.index(role) >= roles.index(least)), (least, role)
    # Metrics of the whole fleet are the operator's, though no RPC stands behind them.
    for role in roles:
        reply = door.http("GET", "/metrics", x_api_key=keys[role])
        assert reply.status == (200 if role == "operator" else 403)
    assert door.http("GET", "/metrics").status == 401


def test_nobody_raises_himself_by_a_key(door: Door) -> None:
    admin = door.key(tenant="climbers", role="admin").secret
    operators = door.key(tenant="climbers", role="operator")
    strangers = door.key(tenant="strangers", role="reader")
    with door.client(admin) as client:
        assert client.keys.create(role="admin").key.tenant == "climbers"
        with pytest.raises(PermissionDenied):
            client.keys.create(role="operator")
        with pytest.raises(PermissionDenied):
            client.keys.create(tenant="strangers")
        with pytest.raises(PermissionDenied):
            list(client.keys.list("strangers"))
        # Who could give it a new secret would be an operator.
        with pytest.raises(PermissionDenied):
            client.keys.rotate(operators.key.key_id)
        with pytest.raises(PermissionDenied):
            client.keys.revoke(operators.key.key_id)
        for key_id in (strangers.key.key_id, "0" * 12):
            with pytest.raises(NotFound) as missing:
                client.keys.revoke(key_id)
            assert missing.value.message == f"There is no key {key_id}."
        assert {key.tenant for key in client.keys.list()} == {"climbers"}


def test_lists_never_show_a_secret_or_its_hash(door: Door) -> None:
    made = door.key(note="listed")
    reply = door.http("GET", "/v1/keys?page_size=500", x_api_key=door.operator)
    assert reply.status == 200
    assert made.key.key_id in reply.body.decode()
    assert made.secret.rpartition("_")[2] not in reply.body.decode()
    for name in ("secret", "hash"):
        assert f'"{name}' not in reply.body.decode()


def test_the_metaagents_own_port_takes_nobody_but_the_gateway(door: Door) -> None:
    settings = door.stack.settings
    own = f"127.0.0.1:{settings.meta_agent_port}"
    internal = (door.stack.directory / "var/access/internal-key").read_bytes().strip()
    forged = TokenKeys([b"y" * 32]).sign("key:x", "meta-agent", tenant="acme", role=4)
    elsewhere = TokenKeys([internal]).sign("key:x", "worker", tenant="acme", role=4)
    service = TokenKeys([internal]).sign("worker", "meta-agent")
    with grpc.insecure_channel(own) as channel:
        stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
        check: Any = channel.unary_unary("/envoy.service.auth.v3.Authorization/Check")
        for metadata in (
            (),
            (("authorization", f"Bearer {door.operator}"),),
            (("x-hma-identity", forged),),
            (("x-hma-identity", elsewhere),),
            (("x-hma-identity", service),),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                stub.ListJobs(meta_agent_pb2.ListJobsRequest(), timeout=30, metadata=metadata)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        for caller in ((), (("x-hma-caller", "gateway." + "0" * 64),)):
            with pytest.raises(grpc.RpcError) as refused:
                check(b"", timeout=30, metadata=caller)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_health_reflection_and_preflights_are_open(door: Door) -> None:
    # No model: the services wait for it, and say so to everybody.
    assert door.http("GET", "/healthz").status in (200, 503)
    assert door.http("GET", "/v1/jobs").status == 401
    health = door.stack.grpcurl("grpc.health.v1.Health/Check")
    assert health.returncode == 0, health.stderr
    listed = door.stack.run(BIN / "grpcurl", "-plaintext", door.stack.address, "list")
    assert "hma.v1.AdminService" in listed.stdout
    preflight = door.http(
        "OPTIONS",
        "/v1/jobs",
        origin="http://localhost:3000",
        **{"access-control-request-method": "POST"},
    )
    assert preflight.status == 200
    assert "authorization" in preflight.headers["access-control-allow-headers"]


def test_a_strangers_job_is_as_if_it_were_none(door: Door) -> None:
    mine, theirs = door.key(tenant="mine").secret, door.key(tenant="theirs").secret
    never = "job-01ARZ3NDEKTSV4RRFFQ69G5FAV"
    with door.client(theirs) as other:
        job_id = other.submit("Why?", budget=2000)
        assert other.get(job_id).tenant == "theirs"
    with door.client(mine) as client:
        calls: dict[str, Callable[[str], object]] = {
            "get": client.get,
            "explain": client.explain,
            "watch": lambda job: next(iter(client.watch(job))),
            "interrupt": client.interrupt,
            "cancel": client.cancel,
            "grant": lambda job: client.grant(job, tokens=100),
            "delete": client.delete,
        }
        for name, call in calls.items():
            texts = []
            for job in (job_id, never):
                with pytest.raises(NotFound) as missing:
                    call(job)
                texts.append(missing.value.message.replace(job, "JOB"))
            assert texts[0] == texts[1], name
        assert [job.job_id for job in client.list()] == []
    with door.client(theirs) as other:
        assert other.get(job_id).state != job_pb2.JOB_STATE_CANCELLED


def test_the_same_request_id_makes_a_job_in_each_tenant(door: Door) -> None:
    made: list[str] = []
    for tenant in ("first", "second"):
        key = door.key(tenant=tenant).secret
        with door.client(key) as client:
            ids = {client.submit("Why?", budget=2000, request_id="same") for _ in range(2)}
            assert len(ids) == 1
            made.extend(ids)
    assert made[0] != made[1]


def test_a_token_says_tenant_and_role(door: Door) -> None:
    assert door.with_token(door.issuer.token()).status == 200
    with door.client(door.issuer.token(role="user")) as client:
        assert client.get(client.submit("Why?", budget=2000)).tenant == "acme"
    with door.client(door.issuer.token(role="reader")) as reader:
        list(reader.list(limit=1))
        with pytest.raises(PermissionDenied):
            reader.submit("Why?", budget=2000)
    with door.client(door.issuer.token(role=["editor", "admin", "user"])) as admin:
        assert admin.keys.create().key.tenant == "acme"


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"exp": int(time.time()) - 60}, 401, "TOKEN_EXPIRED"),
        ({"exp": None}, 401, "TOKEN_INVALID"),
        ({"nbf": int(time.time()) + 600}, 401, "TOKEN_INVALID"),
        ({"aud": "another"}, 401, "TOKEN_AUDIENCE"),
        ({"aud": None}, 401, "TOKEN_AUDIENCE"),
        ({"iss": "https://id.another.test"}, 401, "TOKEN_INVALID"),
        ({"iss": None}, 401, "TOKEN_INVALID"),
        ({"tenant": None}, 403, "NO_TENANT_CLAIM"),
        ({"tenant": 7}, 403, "TENANT_CLAIM_INVALID"),
        ({"tenant": ["acme"]}, 403, "TENANT_CLAIM_INVALID"),
        ({"tenant": ""}, 403, "TENANT_CLAIM_INVALID"),
        ({"tenant": "*"}, 403, "TENANT_CLAIM_INVALID"),
        ({"role": "emperor"}, 403, "ROLE_CLAIM_INVALID"),
        ({"role": {"a": 1}}, 403, "ROLE_CLAIM_INVALID"),
    ],
)
def test_a_token_that_is_not_right_is_refused_with_its_reason(
    door: Door, changes: dict[str, Any], status: int, reason: str
) -> None:
    token = door.issuer.token(**changes)
    reply = door.with_token(token)
    assert (reply.status, reply.reason) == (status, reason)
    assert door.refusal(("authorization", f"Bearer {token}")).reason == reason


def test_a_token_that_is_not_signed_by_the_issuer_is_refused(door: Door) -> None:
    good = door.issuer.token()
    head, _, signature = good.partition(".")[0], "", good.rpartition(".")[2]
    other = door.issuer.token(tenant="other").split(".")[1]
    for token in (
        door.issuer.unsigned(),
        door.issuer.signed_with_the_public_key(),
        Issuer().token(),
        f"{head}.{other}.{signature}",
        good.rpartition(".")[0] + ".",
        "not.a.token",
    ):
        reply = door.with_token(token)
        assert (reply.status, reply.reason) == (401, "TOKEN_INVALID"), token
    # Nor is one taken from where it would be logged.
    assert door.http("GET", f"/v1/jobs?access_token={good}").reason == "NO_CREDENTIALS"


def test_details_of_a_refusal_say_whose_domain_they_are(door: Door) -> None:
    with grpc.insecure_channel(door.stack.address) as channel:
        stub = meta_agent_pb2_grpc.MetaAgentServiceStub(channel)
        with pytest.raises(grpc.RpcError) as error:
            stub.ListJobs(meta_agent_pb2.ListJobsRequest(), timeout=30)
    call: Any = error.value
    trailers = dict(call.trailing_metadata())
    info = error_details_pb2.ErrorInfo()
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == ("hma", "NO_CREDENTIALS")


def test_the_command_line_makes_lists_renews_and_ends_keys(door: Door) -> None:
    stack = door.stack
    bare = stack.hma("keys", "list")
    assert bare.returncode == 6
    assert "hma keys create" in bare.stderr
    doctor = stack.hma("doctor")
    assert "but not to you" in doctor.stdout
    assert "HMA_API_KEY" in doctor.stdout
    assert "nothing listens" not in doctor.stdout
    operator = Stack(
        stack.settings,
        stack.directory,
        {**stack.environment, "HMA_API_KEY_FILE": str(stack.directory / "var/access/key")},
    )
    made = operator.hma("keys", "create", "--tenant", "shell", "--note", "for ships", "-o", "json")
    assert made.returncode == 0, made.stderr
    created = json.loads(made.stdout)
    key_id = created["key"]["key_id"]
    user = Stack(
        stack.settings, stack.directory, {**stack.environment, "HMA_API_KEY": created["secret"]}
    )
    assert user.hma("list").returncode == 0
    table = operator.hma("keys", "list", "--tenant", "shell").stdout
    assert key_id in table
    assert "for ships" in table
    completing = {
        "_HMA_COMPLETE": "bash_complete",
        "COMP_WORDS": "hma keys revoke ",
        "COMP_CWORD": "3",
    }
    completed = Stack(stack.settings, stack.directory, {**operator.environment, **completing})
    assert door.operator.split("_")[1] in completed.hma().stdout
    rotated = operator.hma("keys", "rotate", key_id, "--grace", "1h")
    assert rotated.stdout.startswith(f"hma_{key_id}_")
    assert "old secret works until" in rotated.stdout
    assert "revoked" in operator.hma("keys", "revoke", key_id).stdout
    # The first key of a cluster, past the gateway.
    direct = stack.hma(
        *("keys", "create", "--tenant", "first", "--role", "operator"),
        *("--direct", f"127.0.0.1:{stack.settings.meta_agent_port}"),
        *("--internal-key-file", str(stack.directory / "var/access/internal-key")),
    )
    assert direct.returncode == 0, direct.stderr
    with door.client(direct.stdout.strip()) as client:
        assert list(client.keys.list("shell"))


def test_every_refusal_is_in_the_trail(door: Door) -> None:
    revoked, short = door.key(tenant="trail"), door.key(tenant="trail", lifetime="1s")
    reader, owner = door.key(tenant="trail", role="reader"), door.key(tenant="owner")
    with door.client(door.operator) as operator, door.client(owner.secret) as client:
        operator.keys.revoke(revoked.key.key_id)
        job_id = client.submit("Why?", budget=2000)
    with door.client(short.secret) as client:
        until_refused(lambda: list(client.list(limit=1)))
    forged = TokenKeys([b"y" * 32]).sign("key:x", "meta-agent", tenant="owner", role=4)
    secrets = [revoked.secret, short.secret, reader.secret, owner.secret, forged]
    door.http("GET", "/v1/jobs", x_hma_identity=forged)
    door.http("GET", "/v1/jobs", x_api_key="hma_nobody_" + "x" * 43)
    door.http("GET", "/v1/jobs", x_api_key=revoked.secret)
    door.http("GET", f"/v1/jobs/{job_id}", x_api_key=reader.secret)
    door.http("POST", f"/v1/jobs/{job_id}:cancel", "{}", x_api_key=reader.secret)
    for token in (
        door.issuer.token(exp=int(time.time()) - 60),
        door.issuer.token(aud="another"),
        door.issuer.token(tenant=None),
        door.issuer.unsigned(),
    ):
        secrets.append(token)
        door.with_token(token)
    expected = {
        "NO_CREDENTIALS",
        "KEY_UNKNOWN",
        "KEY_REVOKED",
        "KEY_EXPIRED",
        "NOT_FOUND",
        "PERMISSION_DENIED",
        "TOKEN_EXPIRED",
        "TOKEN_AUDIENCE",
        "NO_TENANT_CLAIM",
        "TOKEN_INVALID",
    }
    with door.client(door.operator) as operator:
        end = time.monotonic() + 30
        while True:
            trail = list(operator.audit(tenant="*", refused=True, limit=1000))
            missing = expected - {entry.reason for entry in trail}
            # Tests before this one have left some of these, too.
            who = {entry.subject for entry in trail if entry.reason == "NOT_FOUND"}
            if (not missing and f"key:{reader.key.key_id}" in who) or time.monotonic() > end:
                break
            time.sleep(0.1)
        owners = list(operator.audit(tenant="owner"))
    assert missing == set()
    assert all(entry.address for entry in trail)
    assert f"key:{reader.key.key_id}" in who
    # Whose job it was hears nothing of who asked for it; the asker's trail names it.
    assert {(entry.method, entry.resource) for entry in owners} == {("CreateJob", job_id)}
    text = "".join(str(entry) for entry in [*trail, *owners])
    assert [secret for secret in secrets if secret in text or secret[-40:] in text] == []
