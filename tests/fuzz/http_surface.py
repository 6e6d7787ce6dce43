"""Sends hostile HTTP requests that schemathesis makes from /openapi.json."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import hypothesis
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

# schemathesis gives it four parameters, none of which matters here.
Case: TypeAlias = "schemathesis.Case[Any]"

_PATIENCE_S = 10.0
# Not implemented; and nothing serves now, which must be said in words.
_EXCUSED = (501, 503)


@dataclass
class HttpFuzz:
    """What was sent and what came back.

    Attributes:
        address: host:port of the gateway.
        headers: Sent with each request, a key say.
        statuses: How often each operation ended with each status.
    """

    address: str
    headers: dict[str, str] = field(default_factory=dict)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)

    @property
    def sent(self) -> int:
        """How many inputs were sent."""
        return self.statuses.total()

    def summary(self) -> Counter[str]:
        """How often each status came back."""
        counts: Counter[str] = Counter()
        for (_, status), count in self.statuses.items():
            counts[str(status)] += count
        return counts

    def run(self, inputs: int, seed: int) -> None:
        """Sends that many requests.

        Raises:
            AssertionError: One was answered as none may be; it is the smallest such.
        """
        with requests.Session() as session:
            job_id = self._make_job(session)

            @hypothesis.seed(seed)
            @settings(
                max_examples=inputs,
                deadline=None,
                database=None,
                phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            )
            @hypothesis.given(self._cases(), st.booleans())
            def send(case: Case, to_a_job: bool) -> None:
                if to_a_job and "job_id" in case.path_parameters:
                    case.path_parameters["job_id"] = job_id
                self._send(session, case)

            send()

    def _make_job(self, session: requests.Session) -> str:
        body: Any = {
            "task_description": "In which year was the mill built?",
            "documents": [{"name": "mills.md", "text": "The mill was built in 1764."}],
            "budget": {"max_tokens": 5000, "deadline": "20s"},
        }
        answer = session.post(
            f"http://{self.address}/v1/jobs", json=body, headers=self.headers, timeout=_PATIENCE_S
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["job_id"])

    def _cases(self) -> st.SearchStrategy[Case]:
        with urllib.request.urlopen(f"http://{self.address}/openapi.json", timeout=10) as page:
            schema = schemathesis.openapi.from_dict(json.load(page))
        found: Any = schema.get_all_operations()
        operations = [each.ok() for each in found]
        return st.one_of(
            [
                operation.as_strategy(generation_mode=mode)
                for operation in operations
                for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
            ]
        )

    def _send(self, session: requests.Session, case: Case) -> None:
        name = f"{case.method} {case.operation.path}"
        try:
            answer: Any = case.call(
                base_url=f"http://{self.address}",
                session=session,
                headers={**dict(case.headers or {}), **self.headers},
                timeout=_PATIENCE_S,
            )
        except requests.exceptions.RequestException as error:
            raise AssertionError(f"{name}: {error!r} after {case.as_curl_command()}") from error
        status = answer.status_code
        self.statuses[name, status] += 1
        text = answer.text
        what = f"{name} answered {status} {text[:500]} to {case.as_curl_command()}"
        assert status < 500 or status in _EXCUSED, what
        assert "Traceback" not in text, what
        assert status < 400 or json.loads(text)["message"], what
