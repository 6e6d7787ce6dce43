-- A job that ends the process that drives it is found by how often that has happened.

-- When the present driver claimed it.
ALTER TABLE job ADD COLUMN claim_time timestamptz;

-- How often in a row its driver was lost, process and all, soon after it had claimed the job.
ALTER TABLE job ADD COLUMN lost_drivers integer NOT NULL DEFAULT 0;
