-- In which order jobs are claimed, and which are not to be driven any more.

-- Of hma.v1.JobPolicy: among the jobs of a tenant, higher ones first.
ALTER TABLE job ADD COLUMN priority smallint NOT NULL DEFAULT 0;

-- How often in a row its driver has failed by a defect.
ALTER TABLE job ADD COLUMN failed_claims integer NOT NULL DEFAULT 0;
