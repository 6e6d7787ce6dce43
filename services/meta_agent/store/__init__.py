"""What the MetaAgent keeps in PostgreSQL: job logs, jobs, documents, who drives what.

`store.open_store` opens everything; the modules can be used one by one. The rules
are in docs/ARCHITECTURE ("The job log"): an epoch fences drivers, facts of others
are appended beside them, one group commit per replica.
"""
