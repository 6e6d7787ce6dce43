-- The ledger: every LLM call that cost tokens, once. It outlives the job's log and
-- holds no content.
--
-- Written by the statement that appends the events which settle the calls, so log and
-- ledger cannot disagree. Rows are only ever added. Quota windows (use = what is settled
-- in the window, by tenant and settle_time) can be put beside it: buckets would be
-- updated by the same statement, after the jobs' rows are locked.
CREATE TABLE ledger_entry (
    job_id               text COLLATE "C" NOT NULL,
    -- The MetaAgent's name for the task: "p.…" planning, "r.…" reducing.
    task_uid             text COLLATE "C" NOT NULL,
    attempt              integer NOT NULL,
    -- The call of the attempt, from 1.
    call                 integer NOT NULL,
    tenant               text COLLATE "C" NOT NULL,
    -- Numbers of hma.v1.Role.
    role                 smallint NOT NULL,
    route                text COLLATE "C" NOT NULL,
    model                text NOT NULL,
    -- Numbers of hma.v1.CallPurpose.
    purpose              smallint NOT NULL,
    -- Cached ones included.
    prompt_tokens        integer NOT NULL,
    cached_prompt_tokens integer NOT NULL,
    -- Reasoning included.
    completion_tokens    integer NOT NULL,
    reasoning_tokens     integer NOT NULL,
    -- False: the tokens are an upper bound.
    exact                boolean NOT NULL,
    -- Money, in the currency of the route's prices.
    cost                 double precision NOT NULL,
    settle_time          timestamptz NOT NULL,
    -- A call is booked once, however often it is reported; the first truth wins.
    PRIMARY KEY (job_id, task_uid, attempt, call)
);

CREATE INDEX ledger_by_time ON ledger_entry (tenant, settle_time);
