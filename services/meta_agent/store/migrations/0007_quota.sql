-- Quotas: what tenants may use, what they use, and what their jobs hold of it.
--
-- Use of a window = what is settled in it (buckets) + what open jobs hold (their rows).
-- Buckets are written by the very statements that write the ledger and accept jobs; a
-- settled token moves from the one part to the other in one commit, so a reader misses
-- none. Only admissions and draws add to a tenant's use, and they hold its row here.
-- Lock order: tenants by id, then jobs by id.

-- A tenant whose limits were set, or whose jobs the default limits hold.
CREATE TABLE tenant_quota (
    tenant text COLLATE "C" PRIMARY KEY,
    -- Limits by their name in hma.v1.QuotaLimits; NULL: the installation's default.
    limits jsonb
);

-- Use in whole seconds, minutes and UTC days, for windows of a minute, of an hour or a
-- day, and of a month.
CREATE TABLE quota_bucket (
    tenant   text COLLATE "C" NOT NULL,
    -- Seconds: 1, 60 or 86400.
    width    integer NOT NULL,
    start    timestamptz NOT NULL,
    -- The process of the database that wrote it: it writes one transaction at a time, so
    -- nobody ever waits for a row. 0: summed up, once nobody writes to it any more.
    shard    integer NOT NULL,
    requests bigint NOT NULL,
    tokens   bigint NOT NULL,
    -- Money, in the currency of the routes' prices.
    cost     double precision NOT NULL,
    PRIMARY KEY (tenant, width, start, shard)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX quota_bucket_by_age ON quota_bucket (width, start);

-- Tokens that may have been spent when a job's log was sealed, and of which nothing more
-- will be heard: used, from that moment on.
CREATE TABLE quota_loss (
    job_id    text COLLATE "C" PRIMARY KEY,
    tenant    text COLLATE "C" NOT NULL,
    tokens    bigint NOT NULL,
    cost      double precision NOT NULL,
    seal_time timestamptz NOT NULL
);

CREATE INDEX quota_loss_by_time ON quota_loss (seal_time);

-- Calls on routes that have limits of their own, for as long as a window counts them.
CREATE TABLE route_call (
    route      text COLLATE "C" NOT NULL,
    call_id    text COLLATE "C" NOT NULL,
    -- The most that it can take; what it took, once that was said.
    tokens     integer NOT NULL,
    begin_time timestamptz NOT NULL,
    PRIMARY KEY (route, call_id)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX route_call_by_time ON route_call (route, begin_time);

-- What the ledger has of the job: raised by the statements that write to it.
ALTER TABLE job ADD COLUMN settled_tokens bigint NOT NULL DEFAULT 0;
-- Tokens that the job has drawn from its tenant's windows; NULL: it spends its budget.
ALTER TABLE job ADD COLUMN quota_drawn bigint;
-- Most money that a token of the job can cost.
ALTER TABLE job ADD COLUMN quota_price double precision NOT NULL DEFAULT 0;
-- Tokens below which beginning is of no use.
ALTER TABLE job ADD COLUMN quota_least integer NOT NULL DEFAULT 1;
-- Tasks that it may have at Workers at once; NULL: any number.
ALTER TABLE job ADD COLUMN quota_tasks integer;
-- 0: it was accepted. 1: it waits until the tenant's windows have room, and nobody claims
-- it before. 2: it never had any and only comes to its end.
ALTER TABLE job ADD COLUMN quota_state smallint NOT NULL DEFAULT 0;
-- When the windows of requests have counted it; NULL: they have not.
ALTER TABLE job ADD COLUMN accept_time timestamptz;

CREATE INDEX job_open_of_tenant ON job (tenant) WHERE NOT sealed;
CREATE INDEX job_waiting ON job (tenant, create_time) WHERE quota_state = 1 AND NOT sealed;

-- What was spent before quotas were counted.
UPDATE job SET settled_tokens = spent.tokens
FROM (
    SELECT job_id, sum(prompt_tokens::bigint + completion_tokens) AS tokens
    FROM ledger_entry GROUP BY job_id
) AS spent
WHERE job.id = spent.job_id;

INSERT INTO quota_bucket (tenant, width, start, shard, requests, tokens, cost)
SELECT tenant, width,
       date_bin(width * interval '1 second', settle_time, timestamptz '2000-01-01 00:00Z'), 0,
       0, sum(prompt_tokens::bigint + completion_tokens), sum(cost)
FROM ledger_entry, (VALUES (1), (60), (86400)) AS w (width)
WHERE settle_time > clock_timestamp() - CASE width
    WHEN 1 THEN interval '2 minutes' WHEN 60 THEN interval '25 hours' ELSE interval '32 days' END
GROUP BY 1, 2, 3;
