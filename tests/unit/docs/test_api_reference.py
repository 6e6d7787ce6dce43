"""docs/API_REFERENCE.md says everything that the contracts say."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from hma import errors
from hma.local.descriptors import descriptor_set
from hma.rpc.status import CODES
from scripts.reference import __main__ as command
from scripts.reference import api
from scripts.reference.contracts import PACKAGE, Contracts
from scripts.reference.descriptors import compile_contracts, read_contracts
from scripts.reference.markdown import anchor, headings

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "API_REFERENCE.md"
EXAMPLE = """
syntax = "proto3";

// What the file is for.
package hma.v1;

import "google/api/annotations.proto";
import "google/api/field_behavior.proto";
import "google/protobuf/duration.proto";

// Serves things.
service ThingService {
  // Changes a thing.
  //
  // Second paragraph.
  rpc Change(ChangeRequest) returns (stream Outer.Inner) {
    option (google.api.http) = {
      post: "/v1/things/{thing_id}:change"
      body: "thing"
      additional_bindings { get: "/v1/things/{thing_id}" }
    };
  }
}

// A request.
message ChangeRequest {
  reserved 7, 9 to 11;
  reserved "old";
  // Which one | with a pipe, 2 * 3 < 7.
  string thing_id = 1 [(google.api.field_behavior) = REQUIRED];
  // What.
  repeated Outer thing = 2;
  // How long.
  google.protobuf.Duration wait = 3;
  // A choice.
  oneof choice {
    // The first.
    int32 first = 4;
    // The second.
    Kind second = 5;
  }
  // May be left out.
  optional int32 maybe = 6;
}

// Outside.
message Outer {
  // Inside.
  message Inner {
    // Deep.
    enum Depth {
      // None.
      DEPTH_UNSPECIFIED = 0;
    }
  }
}

// Kinds.
enum Kind {
  // Not set.
  KIND_UNSPECIFIED = 0;
}
"""


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def contracts() -> Contracts:
    return read_contracts(compile_contracts(ROOT))


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a package with one of everything, in a repository of its own."""
    root = tmp_path_factory.mktemp("repository")
    (root / "scripts").mkdir()
    (root / "scripts" / "proto_paths.sh").write_bytes(
        (ROOT / "scripts" / "proto_paths.sh").read_bytes()
    )
    (root / "protos" / "hma" / "v1").mkdir(parents=True)
    (root / "protos" / "hma" / "v1" / "thing.proto").write_text(EXAMPLE)
    return api.render(read_contracts(compile_contracts(root)))


def _section(page: str, title: str) -> str:
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, f"there is no section {title}"
    return found[1]


def _messages() -> Iterator[descriptor_pb2.DescriptorProto]:
    for file in descriptor_set().file:
        if file.package == PACKAGE:
            yield from file.message_type


def test_every_service_and_rpc_has_a_section_with_its_types(page: str) -> None:
    services = [each for file in descriptor_set().file for each in file.service]
    methods = [(service.name, each) for service in services for each in service.method]
    assert methods
    for service, method in methods:
        section = _section(page, f"{service}.{method.name}")
        for kind in (method.input_type, method.output_type):
            name = kind.rpartition(".")[2]
            assert f"[{name}](#{name.lower()})" in section


def test_every_message_has_a_row_for_each_of_its_fields(page: str) -> None:
    for message in _messages():
        rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", _section(page, message.name), re.MULTILINE)
        assert rows == [(str(each.number), each.name) for each in message.field], message.name


def test_every_enum_has_a_row_for_each_of_its_values(page: str) -> None:
    enums = [
        each for file in descriptor_set().file if file.package == PACKAGE for each in file.enum_type
    ]
    assert enums
    for enum in enums:
        rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", _section(page, enum.name), re.MULTILINE)
        assert rows == [(str(each.number), each.name) for each in enum.value], enum.name


def test_every_element_is_commented(contracts: Contracts) -> None:
    for file in contracts.files:
        assert file.comment, file.name
        commented = [
            *((each.name, each.comment) for each in file.services),
            *((each.name, each.comment) for each in file.messages),
            *((each.name, each.comment) for each in file.enums),
            *((each.name, each.comment) for service in file.services for each in service.methods),
            *((each.name, each.comment) for message in file.messages for each in message.fields),
            *((each.name, each.comment) for enum in file.enums for each in enum.values),
        ]
        assert [name for name, comment in commented if not comment] == []


def test_the_public_service_comes_first(page: str) -> None:
    titles = [title for level, title in headings(page) if level == 3 and "Service" in title]

    assert titles[:2] == ["MetaAgentService", "InternalService"]


def test_every_link_into_a_page_leads_somewhere() -> None:
    for path in (PAGE, PAGE.with_name("SETTINGS.md")):
        text = path.read_text(encoding="utf-8")
        anchors = [anchor(title) for _, title in headings(text)]
        assert sorted(set(anchors)) == sorted(anchors), f"{path.name}: headings are not unique"
        links = set(re.findall(r"\]\(#([^)]+)\)", text))
        assert links
        assert links - set(anchors) == set(), path.name


def test_every_error_that_reaches_clients_is_in_the_table(page: str) -> None:
    inside = {errors.RetryableError, errors.Fenced, errors.SettingsError, errors.CallFailed}
    for kind, status in CODES.items():
        row = re.search(rf"^\| `{status.name}` .*`{kind.__name__}`", page, re.MULTILINE)
        assert (row is None) == (kind in inside), kind.__name__
    assert "| `RESOURCE_EXHAUSTED` | 429 | `QUOTA_EXCEEDED` | `QuotaFailure`, `RetryInfo` |" in page
    assert "| `INVALID_ARGUMENT` | 400 | `INVALID_REQUEST` | `BadRequest` |" in page


def test_a_method_shows_its_streams_bindings_and_paragraphs(example: str) -> None:
    section = _section(example, "ThingService.Change")

    assert "Changes a thing.\n\nSecond paragraph." in section
    assert "[ChangeRequest](#changerequest) → stream of [Outer.Inner](#outerinner)" in section
    assert (
        "* HTTP: `POST /v1/things/{thing_id}:change`, body: `thing`, "
        "query: `wait`, `first`, `second`, `maybe`"
    ) in section
    assert (
        "* HTTP: `GET /v1/things/{thing_id}`, query: `thing`, `wait`, `first`, `second`, `maybe`"
    ) in section


def test_a_field_shows_its_label_type_oneof_and_comment(example: str) -> None:
    section = _section(example, "ChangeRequest")

    assert (
        r"| 1 | `thing_id` | string | **REQUIRED.** Which one \| with a pipe, 2 \* 3 \< 7. |"
        in section
    )
    assert "| 2 | `thing` | repeated [Outer](#outer) | What. |" in section
    assert "| 3 | `wait` | [google.protobuf.Duration](https://protobuf.dev/" in section
    assert "At most one of `choice` is set: A choice." in section
    assert "| 5 | `second` | [Kind](#kind) | *One of `choice`.* The second. |" in section
    assert "| 6 | `maybe` | optional int32 | May be left out. |" in section
    assert "Reserved: `7`, `9 to 11`, `old`." in section


def test_inner_types_have_sections_and_a_new_file_needs_no_change(example: str) -> None:
    assert "Inside.\n\nNo fields." in _section(example, "Outer.Inner")
    assert "`DEPTH_UNSPECIFIED`" in _section(example, "Outer.Inner.Depth")
    assert "What the file is for." in _section(example, "thing.proto")


def test_protos_that_do_not_compile_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "proto_paths.sh").symlink_to(ROOT / "scripts" / "proto_paths.sh")
    (tmp_path / "protos" / "hma" / "v1").mkdir(parents=True)
    (tmp_path / "protos" / "hma" / "v1" / "broken.proto").write_text("message {")

    with pytest.raises(subprocess.CalledProcessError):
        compile_contracts(tmp_path)


def test_a_page_that_differs_or_is_missing_is_stale(tmp_path: Path) -> None:
    pages = {"same.md": "same\n", "other.md": "new\n", "missing.md": "text\n"}
    (tmp_path / "same.md").write_text("same\n")
    (tmp_path / "other.md").write_text("old\n")

    assert command.stale(tmp_path, pages) == ["other.md", "missing.md"]

    command.write(tmp_path, pages)
    assert command.stale(tmp_path, pages) == []


def test_check_fails_on_a_stale_page_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page.md").write_text("old\n")
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(command, "pages", lambda: {"page.md": "new\n"})

    assert command.main(["--check"]) == 1
    assert "page.md is stale: run `make docs`" in capsys.readouterr().err
    assert (tmp_path / "page.md").read_text() == "old\n"

    assert command.main([]) == 0
    assert command.main(["--check"]) == 0
