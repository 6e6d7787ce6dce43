"""Ask a question of a document, under a budget. Needs a stack: `make up`."""

import hma

with hma.Client("localhost:8080") as client:
    job = client.run(
        "What pays for reducing?",
        documents=["docs/ARCHITECTURE.md"],
        budget=5000,
        deadline="2m",
    )
    print(hma.JobState.Name(job.state))
    print(job.answer.text)
    for missing in job.answer.missing:
        print("missing:", missing.item_id, missing.reason)
    print(f"{job.ledger.spent_tokens} of {job.ledger.budget_tokens} tokens")
