"""What a plan is made from: the request, the outlines, and what the route can do."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from hma.llm.profiles import Profile
from hma.llm.routes import Route
from hma.text.items import Request, read_request
from hma.v1 import analyst_pb2, task_pb2


@dataclass(frozen=True)
class Inputs:
    """What a plan is made from. No document is read.

    Attributes:
        description: The client's words.
        documents: Their outlines, in order.
        items: What is asked, in order; ids are unique.
        max_tasks: Most tasks of the plan; at least 1.
        profile: What the route's model can do.
        context_tokens: What one call of the route can hold.
        purse: Tokens that the tasks can have together; 0 when it is not said.
        no_model: Why no model can be asked; empty when one can.
    """

    description: str
    documents: tuple[task_pb2.DocumentRef, ...]
    items: tuple[task_pb2.Item, ...]
    max_tasks: int
    profile: Profile
    context_tokens: int
    purse: int = 0
    no_model: str = ""

    @classmethod
    def of(cls, start: analyst_pb2.PlanStart, route: Route, no_model: str = "") -> Inputs:
        """The inputs that a start frame holds; repeated ids count once."""
        return cls(
            description=start.task_description,
            documents=tuple({d.document_id: d for d in start.documents}.values()),
            items=tuple({item.item_id: item for item in start.items}.values()),
            max_tasks=max(1, start.max_tasks),
            profile=route.profile,
            context_tokens=route.context_tokens,
            purse=start.task_budget_tokens,
            no_model=no_model,
        )

    @cached_property
    def request(self) -> Request:
        """The description taken apart."""
        return read_request(self.description)

    @cached_property
    def readable(self) -> frozenset[str]:
        """Ids of all documents and sections."""
        sections = (s.section_id for d in self.documents for s in d.sections)
        return frozenset(d.document_id for d in self.documents) | frozenset(sections)
