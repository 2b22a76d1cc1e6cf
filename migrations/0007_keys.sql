-- Keys of writers and machines, for gateways that run with `--auth keys`.
--
-- A key is shown once, when it is made (`event-piper keys create`), and is never stored: what is
-- here is the SHA-256 of its secret part, which has 256 random bits and so needs no slower hash.
-- Whoever reads this table can use none of the keys. Gateways read it every few seconds; none
-- writes it.
create table event_piper_keys (
    -- The part of the key that names it.
    id         text primary key check (id ~ '^[0-9a-f]{16}$'),
    -- Whom it was made for; shows in logs and limits.
    name       text not null check (name <> '' and name !~ '[[:cntrl:]]'),
    hash       bytea not null check (octet_length(hash) = 32),
    -- {"read": ["toto", "team-*"], "write": [...], "read_streams": [...], "write_streams": [...],
    --  "all": true, "console": true, "metrics": true}; what is not there is not granted.
    rights     jsonb not null check (jsonb_typeof(rights) = 'object'),
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    -- A revoked key stays, so that its name can be found in old logs.
    revoked_at timestamptz
);

comment on table event_piper_keys is 'Keys of writers and machines: hashes, never the keys themselves';
