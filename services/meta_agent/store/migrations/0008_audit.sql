-- Who did what, and who was refused. Rows are appended and never changed. They hold no
-- content of jobs: ids and names only, cut to a length.
CREATE TABLE audit_entry (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time       timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Empty when the caller is not known.
    tenant     text COLLATE "C" NOT NULL,
    subject    text COLLATE "C" NOT NULL,
    method     text COLLATE "C" NOT NULL,
    -- The job, key or tenant that it was done to; empty when there is none.
    resource   text COLLATE "C" NOT NULL,
    address    text COLLATE "C" NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    code       text COLLATE "C" NOT NULL,
    reason     text COLLATE "C" NOT NULL,
    -- Refusals alike within a second are one row.
    count      integer NOT NULL CHECK (count > 0)
);

CREATE INDEX audit_entry_of_tenant ON audit_entry (tenant, id);
CREATE INDEX audit_entry_of_resource ON audit_entry (resource, id) WHERE resource <> '';
-- Rows come in the order of time: some pages of index serve for years.
CREATE INDEX audit_entry_by_time ON audit_entry USING brin (time);

-- Append-only. What deletes by age says so for its own transaction
-- (set_config('hma.audit_retention', seconds, true)), and even then nothing goes that is
-- younger than that, or than a day: whoever breaks in cannot wipe out the traces of it by
-- the same door. The table's owner could drop the triggers: a trail that must hold against
-- the database's administrators has to be copied elsewhere.
CREATE FUNCTION audit_entry_stays() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    age interval;
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('hma.audit_retention', true) <> '' THEN
        age := make_interval(secs => current_setting('hma.audit_retention')::float8);
        IF OLD.time < clock_timestamp() - greatest(age, interval '1 day') THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'audit_entry is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER audit_entry_rows_stay BEFORE UPDATE OR DELETE ON audit_entry
    FOR EACH ROW EXECUTE FUNCTION audit_entry_stays();
CREATE TRIGGER audit_entry_stays BEFORE TRUNCATE ON audit_entry
    FOR EACH STATEMENT EXECUTE FUNCTION audit_entry_stays();
