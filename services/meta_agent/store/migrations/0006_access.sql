-- API keys. Of a secret only SHA-256 is kept: it is 32 random bytes, which nobody can guess.
CREATE TABLE api_key (
    -- The public middle part of the key's text.
    key_id                 text COLLATE "C" PRIMARY KEY,
    tenant                 text COLLATE "C" NOT NULL,
    -- A number of hma.v1.CallerRole.
    role                   smallint NOT NULL,
    note                   text NOT NULL,
    secret_hash            bytea NOT NULL,
    -- The secret before the last rotation, for as long as it still works.
    old_secret_hash        bytea,
    old_secret_expire_time timestamptz,
    create_time            timestamptz NOT NULL DEFAULT clock_timestamp(),
    rotate_time            timestamptz,
    -- NULL: it works until it is revoked.
    expire_time            timestamptz,
    revoke_time            timestamptz,
    -- Written at most about once a minute.
    last_use_time          timestamptz,
    CHECK ((old_secret_hash IS NULL) = (old_secret_expire_time IS NULL))
);

CREATE INDEX api_key_by_tenant ON api_key (tenant, create_time DESC, key_id DESC);
CREATE INDEX api_key_by_time ON api_key (create_time DESC, key_id DESC);
