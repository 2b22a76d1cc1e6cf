-- The log: one row an event, appended by anybody who may INSERT, read by EventPiper, never changed.
--
--     insert into events (type, timestamp, subscriber, payload)
--     values ('insert', now(), 'toto', '{"foo": "bar"}');

create table if not exists events (
    -- Drawn by the database, one at a time (an identity's sequence has cache 1), never given by the
    -- writer: what a reader knows about ids that are missing rests on that.
    id          bigint generated always as identity primary key,
    -- What happened, one line. Names that begin with `$` are the gateway's own.
    type        text not null,
    "timestamp" timestamptz not null default now(),
    -- The consumer it is for; null when the event is of a stream only.
    subscriber  text,
    -- Any JSON value, `null` and bare numbers included.
    payload     jsonb not null,
    -- The stream that the event is of, and its place there, counted from 1.
    stream      text,
    version     bigint,
    -- The writer's own id: with `on conflict (uid) do nothing`, written twice is written once.
    uid         uuid,
    -- Correlation, causation, whatever the writer notes.
    metadata    jsonb,
    -- The transaction that wrote it: how a reader knows an event that was long in coming.
    xid         xid8 not null default pg_catalog.pg_current_xact_id()
);

comment on table events is 'EventPiper: the log of events; rows are appended, and never changed';
comment on column events.type is 'what happened, one line; names that begin with $ are reserved';
comment on column events.subscriber is 'the consumer it is for; null: of a stream only';
comment on column events.version is 'the place in its stream, counted from 1';
comment on column events.uid is 'the writer''s own id, unique';
comment on column events.xid is 'the transaction that wrote it; given by the database';

-- What a row must be. One function for all of it, because PostgreSQL reads each check constraint of a
-- table anew in every statement: fourteen of them cost more than the INSERT itself, this one next to
-- nothing. It first asks whether all is well, and looks for words only if not.
--
-- A name is one line, not empty, without control characters (Unicode's Cc), and no longer than fits
-- into an index for certain.
create function event_piper_admits(
    type text, subscriber text, stream text, version bigint, xid xid8
) returns boolean language plpgsql stable as $admits$
begin
    if type !~ '^$|^\$|[[:cntrl:]]' and pg_catalog.octet_length(type) <= 1024
       and (subscriber is null
            or subscriber !~ '^$|[[:cntrl:]]' and pg_catalog.octet_length(subscriber) <= 1024)
       and (stream is null and version is null and subscriber is not null
            or version >= 1 and stream !~ '^$|[[:cntrl:]]'
               and pg_catalog.octet_length(stream) <= 1024)
       and xid = pg_catalog.pg_current_xact_id()
    then
        return true;
    end if;

    declare
        refused constant text := case
            when type = '' then 'type is empty'
            when subscriber = '' then 'subscriber is empty'
            when stream = '' then 'stream is empty'
            when type ~ '^\$' then 'type begins with $: such names are the gateway''s own'
            when type ~ '[[:cntrl:]]' then 'type contains a control character'
            when subscriber ~ '[[:cntrl:]]' then 'subscriber contains a control character'
            when stream ~ '[[:cntrl:]]' then 'stream contains a control character'
            when pg_catalog.octet_length(type) > 1024 then 'type is longer than 1024 bytes'
            when pg_catalog.octet_length(subscriber) > 1024 then 'subscriber is longer than 1024 bytes'
            when pg_catalog.octet_length(stream) > 1024 then 'stream is longer than 1024 bytes'
            when (stream is null) <> (version is null) then 'stream and version belong together'
            when stream is null and subscriber is null then 'neither subscriber nor stream is given'
            when version < 1 then 'version counts from 1'
            -- Who loads rows from elsewhere, or corrects one, says so as for pruning (see
            -- append-only). roles.sql keeps writers from giving an xid at all.
            when xid <> pg_catalog.pg_current_xact_id()
                 and pg_catalog.current_setting('event_piper.prune', true) is distinct from 'on'
            then 'xid is given by the database, not by the writer'
        end;
    begin
        if refused is not null then
            raise exception using
                errcode = 'check_violation', constraint = 'events_well_formed',
                message = pg_catalog.format('refused this event: %s', refused);
        end if;
    end;
    return true;
end
$admits$;

-- `not valid`: every new row must obey, but rows that came from the predecessor are kept as they
-- are. Backups need it, too: pg_dump adds such a constraint after the rows.
alter table events add constraint events_well_formed
    check (event_piper_admits(type, subscriber, stream, version, xid)) not valid;

-- What a late transaction wrote: asked rarely, so it costs writers next to nothing. It is on the
-- number, since PostgreSQL has no BRIN operator class for xid8.
create index events_xid on events using brin ((xid::text::bigint))
    with (pages_per_range = 32, autosummarize = on);

-- A consumer's replay: `subscriber = $1 and id > $2 order by id`.
create index events_subscriber_id on events (subscriber, id) where subscriber is not null;

-- Costs nothing to rows that have no stream.
create unique index events_stream_version on events (stream, version) where stream is not null;

-- Not partial, though it could be: `on conflict (uid) do nothing` would not find it.
create unique index events_uid on events (uid);
