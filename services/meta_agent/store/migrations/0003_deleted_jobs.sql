-- What is left of a job that was deleted: enough to answer a repeated request as the
-- first, and nothing of its content. Ids of requests are a client's text: hashes only.
-- Rows expire with the retention.
CREATE TABLE deleted_job (
    job_id         text COLLATE "C" PRIMARY KEY,
    tenant         text COLLATE "C" NOT NULL,
    -- SHA-256 of the id of the CreateJob that made it; NULL when it had none.
    create_request bytea,
    -- The job's fingerprint: SHA-256 of that request.
    fingerprint    bytea NOT NULL,
    -- SHA-256 of the id of the DeleteJob that deleted it; NULL when it had none.
    delete_request bytea,
    -- The state in which it ended: a number of hma.v1.JobState.
    state          smallint NOT NULL,
    deleted_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (tenant, create_request)
);

CREATE INDEX deleted_job_by_time ON deleted_job (deleted_at);

-- For those that expire. Both columns change once, when the log is sealed.
CREATE INDEX job_ended ON job (end_time) WHERE sealed;
