-- Lines: who waits for room is served before who comes later, on whatever replica.

-- Calls that wait for room on routes that have limits of their own.
CREATE TABLE route_waiter (
    route    text COLLATE "C" NOT NULL,
    call_id  text COLLATE "C" NOT NULL,
    -- When it came, earlier for those that are to go before others.
    turn     timestamptz NOT NULL,
    -- Of two with one turn, the lower comes first.
    place    bigint GENERATED ALWAYS AS IDENTITY,
    -- The most that the call can take.
    tokens   integer NOT NULL,
    -- When it was asked for last. Whoever asks no more keeps nobody waiting.
    ask_time timestamptz NOT NULL,
    PRIMARY KEY (route, call_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

-- Jobs that wait for tokens of their tenant's windows, by turn (`quota_line`).

-- Tokens without which the job cannot go on; NULL: it does not wait.
ALTER TABLE job ADD COLUMN quota_lacks bigint;
-- When it looked for them last. Whoever looks no more keeps nobody waiting.
ALTER TABLE job ADD COLUMN quota_look_time timestamptz;
-- Its place in the line of those who wait: whose is earlier comes first.
ALTER TABLE job ADD COLUMN quota_turn timestamptz;
-- Since when room is kept for it; NULL: others are before it.
ALTER TABLE job ADD COLUMN quota_kept_time timestamptz;
