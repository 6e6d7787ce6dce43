-- The job log, its documents, and who drives what.
--
-- Lock order, for everything that locks more than one row: tenants by id (quota
-- tranches, when they come), then jobs by id. Nothing that is updated per append may
-- be indexed here: it would end HOT updates of the hottest table.

CREATE TABLE job (
    id            text COLLATE "C" PRIMARY KEY,
    tenant        text COLLATE "C" NOT NULL,
    -- NULL when the client gave none.
    request_id    text COLLATE "C",
    -- SHA-256 of the request, so that a reused request_id is told from a retry.
    fingerprint   bytea NOT NULL,
    -- The first characters of the description, for lists.
    title         text NOT NULL DEFAULT '',
    -- Numbers of hma.v1.JobState.
    state         smallint NOT NULL,
    state_reason  text NOT NULL DEFAULT '',
    -- Sequence of the latest event.
    version       integer NOT NULL,
    -- Raised by every claim; fences whoever drove before.
    epoch         bigint NOT NULL DEFAULT 0,
    -- The replica that drives it; NULL when nobody does.
    driver        text COLLATE "C",
    -- Not to be claimed before; NULL: at once.
    claim_after   timestamptz,
    -- Nothing is appended to a sealed log.
    sealed        boolean NOT NULL DEFAULT false,
    -- The lowest reader version that can fold this log.
    min_reader    integer NOT NULL DEFAULT 1,
    deadline      timestamptz NOT NULL,
    create_time   timestamptz NOT NULL,
    start_time    timestamptz,
    end_time      timestamptz,
    budget_tokens integer NOT NULL,
    spent_tokens  integer NOT NULL DEFAULT 0,
    UNIQUE (tenant, request_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX job_by_time ON job (tenant, create_time DESC, id DESC);
CREATE INDEX job_open ON job (create_time) WHERE NOT sealed;

-- No foreign key to job: every insert happens under a lock on the job's row, and the
-- check would lock that row once more for each event.
CREATE TABLE job_event (
    job_id   text COLLATE "C" NOT NULL,
    -- From 1, without gaps.
    sequence integer NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    -- Name of the payload's field in hma.v1.JobEvent.
    type     text NOT NULL,
    -- hma.v1.JobEvent without its sequence.
    payload  bytea NOT NULL,
    PRIMARY KEY (job_id, sequence),
    UNIQUE (job_id, event_id)
);

-- Content in parts, so that no reader needs the whole, and none decompresses the
-- beginning again for each part. An empty document has one empty part.
CREATE TABLE job_document (
    job_id      text COLLATE "C" NOT NULL,
    document_id text COLLATE "C" NOT NULL,
    part        integer NOT NULL,
    parts       integer NOT NULL,
    content     bytea NOT NULL,
    PRIMARY KEY (job_id, document_id, part)
);

CREATE TABLE replica (
    id      text COLLATE "C" PRIMARY KEY,
    address text NOT NULL,
    beat    timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Counters of the fleet; '' holds what replicas that are gone have counted.
CREATE TABLE fleet_metric (
    replica text COLLATE "C" NOT NULL,
    name    text COLLATE "C" NOT NULL,
    labels  text COLLATE "C" NOT NULL,
    value   double precision NOT NULL,
    PRIMARY KEY (replica, name, labels)
) WITH (fillfactor = 50);

-- The last batch of increments taken from each replica: none counts twice.
CREATE TABLE fleet_batch (
    replica text COLLATE "C" PRIMARY KEY,
    batch   bigint NOT NULL,
    at      timestamptz NOT NULL
) WITH (fillfactor = 50);
