"""The reader version: which logs this release can fold.

A log names the version that it needs (`min_reader` of its job), and a replica claims
only jobs whose logs it can fold. Raise READER with every release that writes events, or
fields that change what an event means, which the release before does not know:

1. The first release.
2. tokens_moved, plan_trimmed, round_judged; money in budget_granted; judged rounds.
3. quota_drawn, call_deferred; jobs that spend what they have drawn.
"""

READER = 3
