-- Lines: who waits for room is served before who comes later, on whatever replica.

-- Calls that wait for room on routes that have limits of their own.
CREATE TABLE route_waiter (
    route    text COLLATE "C" NOT NULL,
    call_id  text COLLATE "C" NOT NULL,
    -- Lower ones come first.
    place    bigint GENERATED ALWAYS AS IDENTITY,
    -- The most that the call can take.
    tokens   integer NOT NULL,
    -- When it was asked for last. Whoever asks no more keeps nobody waiting.
    ask_time timestamptz NOT NULL,
    PRIMARY KEY (route, call_id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
