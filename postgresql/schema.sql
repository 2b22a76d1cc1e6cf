-- The schema as it stands after all of migrations/, in one piece: for whoever wants to read it, review
-- it, or create it by hand rather than by `event-piper migrate`. A test holds the two together.
--
-- Run it in one transaction, in the schema that the tables shall live in:
--
--     psql --single-transaction -v ON_ERROR_STOP=1 -f schema.sql

-- -------------------------------------------------------------------------------------------------
-- The log: one row an event, appended by anybody who may INSERT, read by EventPiper, never changed.
--
--     insert into events (type, timestamp, subscriber, payload)
--     values ('insert', now(), 'toto', '{"foo": "bar"}');

create table events (
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
    xid         xid8 not null default pg_catalog.pg_current_xact_id(),
    -- The earlier event whose payload this one corrects; see below.
    amends      bigint
);

comment on table events is 'EventPiper: the log of events; rows are appended, and never changed';
comment on column events.type is 'what happened, one line; names that begin with $ are reserved';
comment on column events.subscriber is 'the consumer it is for; null: of a stream only';
comment on column events.version is 'the place in its stream, counted from 1';
comment on column events.uid is 'the writer''s own id, unique';
comment on column events.xid is 'the transaction that wrote it; given by the database';

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

-- -------------------------------------------------------------------------------------------------
-- The doorbell: tells a sleeping reader that events are coming, and costs writers next to nothing
-- while the reader is awake, or when there is none.
--
-- NOTIFY in every transaction would let writers commit only one after the other. So a reader that is
-- about to sleep takes a lock, and only writers who find it taken notify. The notification is empty:
-- readers read the table.
--
-- The locks are advisory, in the two-integer key space; the first integer is the log's (17744, 0x4550, "EP",
-- for the first log of a database):
--     1 BELL     held by a reader that sleeps (exclusive), or by each writer who found nobody asleep
--     2 WRITER   held by each writer who rang
--     3 KEEPER   held by the one reader, of several, that minds the bell
--     4 READER   held by each reader (shared)
--     6 PRUNE    held by the one who prunes
--
-- Every writer holds BELL or WRITER before it draws an id, until it has ended and its rows are
-- visible: so a reader who misses an id can tell whether it may still come. That is why the trigger
-- is of the statement, and before it: it runs before the first row's defaults.
--
-- A writer needs no right but INSERT for any of this.
--
-- This makes what runs with the rights of whoever writes, and names the schema of everything that it uses.
do $any_session$
declare
    outside constant text := pg_catalog.current_setting('search_path');
    -- Where the number of a log's locks stands in its doorbell.
    place   constant text := 'try_advisory_xact_lock_shared[(]([0-9]+), 1[)]';
    log     oid;
    home    name;
    schema  oid;
    locks   int;
    made    record;
    readers text;
begin
    select c.oid, n.nspname, n.oid
      into strict log, home, schema
      from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
     where c.oid operator(pg_catalog.=) pg_catalog.to_regclass('events');
    -- Nothing that is not PostgreSQL's own has a say in what follows.
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

    -- Two logs that choose at the same time choose one after the other.
    perform pg_advisory_xact_lock(17744, 7);
    select substring(prosrc from place)::int into locks
      from pg_proc where pronamespace = schema and proname = 'event_piper_doorbell';
    locks := coalesce(locks, 17744);
    if exists (select from pg_proc
                where proname = 'event_piper_doorbell' and pronamespace <> schema
                  and substring(prosrc from place)::int8 = locks)
    then
        -- Writers that hold the locks of before have ended when this is had.
        execute format('lock table %I.events in share row exclusive mode', home);
        -- Readers that look at the locks of before would pass over rows.
        select string_agg(pid::text, ', ' order by pid) into readers
          from pg_locks
         where locktype = 'advisory' and objsubid = 2
           and (classid::int8 = locks and objid = 4 or classid::int8 = locks + 1)
           and database = (select oid from pg_database where datname = current_database());
        if readers is not null
           and pg_sequence_last_value(pg_get_serial_sequence(format('%I.events', home), 'id')::regclass)
               is not null
        then
            raise exception using
                errcode = 'EP003',
                message = format('gateways or pumps are connected to this database (backends %s)', readers),
                hint = 'This log gets locks of its own, beside those of another log in the database. Stop '
                    || 'all gateways of this database, run event-piper migrate, and start them again.';
        end if;
        -- Even, since the number behind it is that of the pumps' locks.
        locks := hashtext(home) & 2147483646;
    end if;

    for made in
        select * from (values
('event_piper_doorbell', $doorbell$
declare
    -- The transaction has its id before it has a lock: readers look for both.
    writer constant pg_catalog.xid8 not null := pg_catalog.pg_current_xact_id();
begin
    if not pg_catalog.pg_try_advisory_xact_lock_shared({locks}, 1) then
        perform pg_catalog.pg_advisory_xact_lock_shared({locks}, 2);
        -- PREPARE TRANSACTION does not allow NOTIFY. Who needs it says
        -- `set event_piper.bell = 'off'`; readers then find the event within a second.
        if (pg_catalog.current_setting('event_piper.bell', true) operator(pg_catalog.=) 'off') is not true
        then
            perform pg_catalog.pg_notify('new_events', '');
        end if;
    end if;
    return null;
end
$doorbell$),
('event_piper_append_only', $append_only$
begin
    if (pg_catalog.current_setting('event_piper.prune', true) operator(pg_catalog.=) 'on') is not true then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = pg_catalog.format('%I is append-only: %s was refused', tg_table_name, tg_op),
            hint = 'To prune on purpose: begin; set local event_piper.prune = ''on''; ... commit;';
    end if;
    return null;
end
$append_only$),
('event_piper_replicated', $replicated$
begin
    if pg_catalog.current_setting('session_replication_role') operator(pg_catalog.=) 'replica'
       and (pg_catalog.current_setting('event_piper.prune', true) operator(pg_catalog.=) 'on') is not true
    then
        new.xid := pg_catalog.pg_current_xact_id();
    end if;
    return new;
end
$replicated$)
        ) function (name, body)
    loop
        execute format('create or replace function %I.%I() returns trigger language plpgsql as %L',
                       home, made.name, replace(made.body, '{locks}', locks::text));
    end loop;

    -- It fires in sessions with session_replication_role = replica only, and so costs others nothing; and
    -- before events_well_formed, by its name.
    if not exists (select from pg_trigger where tgrelid = log and tgname = 'events_replicated') then
        execute format('create trigger events_replicated before insert or update on %I.events '
                       'for each row execute function %1$I.event_piper_replicated()', home);
        execute format('alter table %I.events enable replica trigger events_replicated', home);
    end if;
    perform set_config('search_path', outside, true);
end
$any_session$;

create trigger events_doorbell before insert on events
    for each statement execute function event_piper_doorbell();

-- Always, even in a session with session_replication_role = replica: a row that comes without the
-- bell could be passed over.
alter table events enable always trigger events_doorbell;

-- -------------------------------------------------------------------------------------------------
-- What happened stays: UPDATE, DELETE and TRUNCATE of the log are refused, and with them
-- `on conflict do update`. To prune, which needs the right to do so as well, say
--
--     begin;
--     set local event_piper.prune = 'on';
--     delete from events where ...;
--     commit;
create trigger events_append_only before update or delete on events
    for each statement execute function event_piper_append_only();
create trigger events_append_only_truncate before truncate on events
    for each statement execute function event_piper_append_only();

-- In a session with session_replication_role = replica as well: there is one door, and it has a name.
alter table events enable always trigger events_append_only;
alter table events enable always trigger events_append_only_truncate;

-- -------------------------------------------------------------------------------------------------
-- What was pruned is remembered, so that a consumer who comes back to where nothing is any more is
-- told so (`$gap`), and nothing is ever skipped in silence.
create table events_pruned (
    -- Whose events went; '' for those that had no subscriber, null for everybody's (TRUNCATE).
    subscriber text,
    -- The greatest id that went.
    upto       bigint not null,
    pruned_at  timestamptz not null default now()
);

-- One row a subscriber; and as null is unlike null, one index more for the row of everybody.
create unique index events_pruned_subscriber on events_pruned (subscriber);
create unique index events_pruned_everybody on events_pruned ((subscriber is null))
    where subscriber is null;

comment on table events_pruned is 'EventPiper: up to which id events were pruned, by subscriber';

-- -------------------------------------------------------------------------------------------------
-- What is done to the log after it was written: corrections, which are events themselves; pruning; and
-- erasure, which takes out what was said and leaves that something was said.

-- A correction names the earlier event that it amends, and its payload is the patch: a JSON array is a
-- JSON Patch (RFC 6902), anything else a merge patch (RFC 7396). Both events stay as they are;
-- whoever asks with `amended=true` is shown the payload as corrected.
comment on column events.amends is
    'the earlier event whose payload this one corrects: by a JSON Patch when its own is an array, '
    'else by a merge patch';

-- How an event's corrections are found. Costs nothing to rows that correct nothing.
create index events_amends on events (amends, id) where amends is not null;

-- Streams that stay: `event-piper prune` leaves their events alone.
create table events_keep (
    -- A stream's name; * stands for any characters, none included.
    stream text primary key check (stream <> ''),
    reason text,
    since  timestamptz not null default now()
);
comment on table events_keep is 'EventPiper: the streams that are never pruned; * stands for anything';

-- Whose events were changed after they were written, which is to say erased. Gateways read this
-- once a second, and let go of what they keep of these in memory.
create table events_erased (
    -- Whose; '' for those that had no subscriber ...
    subscriber text unique,
    -- ... or the stream, where that was erased as a whole.
    stream     text unique,
    -- The greatest id of theirs that was changed.
    upto       bigint not null,
    erased_at  timestamptz not null default now(),
    xid        xid8 not null default pg_catalog.pg_current_xact_id(),
    check (num_nonnulls(subscriber, stream) = 1)
);
create index events_erased_xid on events_erased (xid);
comment on table events_erased is
    'EventPiper: whose events were erased, or changed in another way, up to which id, and when';

-- -------------------------------------------------------------------------------------------------
-- What a row must be, what is remembered of rows that go or change, and what may be amended.
--
-- Functions that run with their owner's rights name every table in full, take none from their caller, and
-- refuse to work for another table than the log. The schema is written into each when it is made.
do $migration$
declare
    outside constant text := pg_catalog.current_setting('search_path');
    -- The log, its schema, and its owner.
    log     oid;
    home    name;
    schema  oid;
    keeper  oid;
    made    record;
    several boolean;
begin
    select c.oid, n.nspname, n.oid, c.relowner
      into strict log, home, schema, keeper
      from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
     where c.oid operator(pg_catalog.=) pg_catalog.to_regclass('events');
    -- Nothing that is not PostgreSQL's own has a say in what follows.
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

    -- An amendment is checked with the owner's rights, because a writer may have the right to INSERT
    -- only. The trigger of the log inserts it here, and the trigger of this table checks it. So nobody
    -- needs EXECUTE on anything, and writers of other events pay nothing.
    execute format(
        'create table if not exists %I.event_piper_amending ('
        'amends bigint, id bigint, subscriber text, stream text, payload jsonb)', home);
    execute format(
        'comment on table %I.event_piper_amending is '
        '''EventPiper: checks amendments as they are written; it never holds a row''', home);

    for made in
        select * from (values
('event_piper_admit', '', $admit$
-- What a row must be. It first asks whether all is well, of events without a stream and of those with one,
-- and looks for words only if not. Each function that a condition calls costs writers more to set up, once
-- a transaction, than to call.
--
-- A name is one line, not empty, without control characters (Unicode's Cc), and no longer than fits into an
-- index for certain.
--
-- It runs with the rights and the settings of whoever writes. Therefore it names the schema of everything
-- that it uses, and has no backslash in a string.
declare
    refused pg_catalog.text;
begin
    if new.stream is null and new.version is null and new.amends is null
       and new.type operator(pg_catalog.!~) '^$|^[$]|[[:cntrl:]]'
       and pg_catalog.octet_length(new.type) operator(pg_catalog.<=) 1024
       and new.subscriber operator(pg_catalog.!~) '^$|[[:cntrl:]]'
       and pg_catalog.octet_length(new.subscriber) operator(pg_catalog.<=) 1024
       and new.xid operator(pg_catalog.=) pg_catalog.pg_current_xact_id()
    then
        return new;
    elsif new.version operator(pg_catalog.>=) 1 and new.amends is null
       and new.type operator(pg_catalog.!~) '^$|^[$]|[[:cntrl:]]'
       and pg_catalog.octet_length(new.type) operator(pg_catalog.<=) 1024
       and (new.subscriber is null
            or new.subscriber operator(pg_catalog.!~) '^$|[[:cntrl:]]'
               and pg_catalog.octet_length(new.subscriber) operator(pg_catalog.<=) 1024)
       and new.stream operator(pg_catalog.!~) '^$|[[:cntrl:]]'
       and pg_catalog.octet_length(new.stream) operator(pg_catalog.<=) 1024
       and new.xid operator(pg_catalog.=) pg_catalog.pg_current_xact_id()
    then
        return new;
    end if;

    refused := case
        when new.type operator(pg_catalog.=) '' then 'type is empty'
        when new.subscriber operator(pg_catalog.=) '' then 'subscriber is empty'
        when new.stream operator(pg_catalog.=) '' then 'stream is empty'
        when new.type operator(pg_catalog.~) '^[$]'
            then 'type begins with $: such names are the gateway''s own'
        when new.type operator(pg_catalog.~) '[[:cntrl:]]' then 'type contains a control character'
        when new.subscriber operator(pg_catalog.~) '[[:cntrl:]]'
            then 'subscriber contains a control character'
        when new.stream operator(pg_catalog.~) '[[:cntrl:]]' then 'stream contains a control character'
        when pg_catalog.octet_length(new.type) operator(pg_catalog.>) 1024
            then 'type is longer than 1024 bytes'
        when pg_catalog.octet_length(new.subscriber) operator(pg_catalog.>) 1024
            then 'subscriber is longer than 1024 bytes'
        when pg_catalog.octet_length(new.stream) operator(pg_catalog.>) 1024
            then 'stream is longer than 1024 bytes'
        when (new.stream is null) operator(pg_catalog.<>) (new.version is null)
            then 'stream and version belong together'
        when new.stream is null and new.subscriber is null
            then 'neither subscriber nor stream is given'
        when new.version operator(pg_catalog.<) 1 then 'version counts from 1'
        -- Whoever loads rows from elsewhere, or corrects one, says so as for pruning (see append-only).
        -- roles.sql keeps writers from giving an xid at all.
        when new.xid operator(pg_catalog.<>) pg_catalog.pg_current_xact_id()
             and (pg_catalog.current_setting('event_piper.prune', true)
                  operator(pg_catalog.=) 'on') is not true
        then 'xid is given by the database, not by the writer'
    end;
    if refused is not null then
        raise exception using
            errcode = 'check_violation', constraint = 'events_well_formed',
            message = pg_catalog.format('refused this event: %s', refused);
    end if;
    if new.amends is not null then
        if (coalesce(pg_catalog.pg_partition_root(tg_relid)::pg_catalog.oid, tg_relid)
            operator(pg_catalog.=) pg_catalog.to_regclass({log})::pg_catalog.oid) is not true
        then
            raise exception using
                errcode = 'object_not_in_prerequisite_state',
                message = pg_catalog.format('event_piper_admit() works for %s only', {log}),
                hint = 'After a schema was renamed, run event-piper migrate.';
        end if;
        insert into {schema}.event_piper_amending (amends, id, subscriber, stream, payload)
        values (new.amends, new.id, new.subscriber, new.stream, new.payload);
    end if;
    return new;
end
$admit$),
('event_piper_check_amendment', 'security definer set search_path = pg_catalog, pg_temp', $amendment$
-- What an amendment must be. Being volatile, it sees what the same statement has written so far.
declare
    target  record;
    refused text;
begin
    if tg_relid is distinct from to_regclass({amending}) then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('event_piper_check_amendment() works for %s only', {amending}),
            hint = 'After a schema was renamed, run event-piper migrate.';
    end if;
    -- Everybody may INSERT here, and what is answered tells of an event. So it is answered only in a
    -- session that may write events: its user may, or it has drawn an id. (A function of somebody who
    -- may write can do that for a user who may not.)
    if has_any_column_privilege(session_user, {log}, 'INSERT') is not true then
        begin
            perform currval(pg_get_serial_sequence({log}, 'id')::regclass);
        exception when object_not_in_prerequisite_state then
            raise exception using
                errcode = 'insufficient_privilege',
                message = format('permission denied for table %s', {log});
        end;
    end if;
    -- What is corrected or erased later was right when it was written.
    if current_setting('event_piper.prune', true) = 'on' then
        return null;
    end if;

    select e.subscriber, e.stream, e.amends into target from {schema}.events e where e.id = new.amends;
    refused := case
        when not found or new.amends >= new.id then
            format('there is no earlier event %s to amend', new.amends)
        when target.amends is not null then
            format('event %s is an amendment itself: amend %s', new.amends, target.amends)
        when (target.subscriber = new.subscriber) is not true
             and (target.stream = new.stream) is not true then
            format('event %s is of another subscriber and another stream', new.amends)
        when jsonb_typeof(new.payload) = 'array' and exists (
                 select from jsonb_array_elements(new.payload) step
                 where not coalesce(
                     step ->> 'op' in ('add', 'remove', 'replace', 'move', 'copy', 'test')
                     and step ->> 'path' ~ '^(/.*)?$'
                     and (step ->> 'op' not in ('add', 'replace', 'test') or step ? 'value')
                     and (step ->> 'op' not in ('move', 'copy') or step ->> 'from' ~ '^(/.*)?$'),
                     false)) then
            'the payload is an array, and no JSON Patch (RFC 6902)'
    end;
    -- So that reading an event as corrected is bounded. Writers that are at it at the same moment may
    -- exceed it by as many as they are.
    if refused is null and (select count(*) from (select from {schema}.events e where e.amends = new.amends
                                                  limit 1001) known) >= 1000
    then
        refused := format('there are 1000 amendments of event %s', new.amends);
    end if;
    if refused is not null then
        raise exception using
            errcode = 'check_violation', constraint = 'events_amends_an_event',
            message = format('refused this amendment: %s', refused);
    end if;
    return null;
end
$amendment$),
('event_piper_remember_deleted', 'security definer set search_path = pg_catalog, pg_temp', $deleted$
-- In one order everywhere, so that sessions that prune at the same time cannot deadlock.
begin
    if coalesce(pg_partition_root(tg_relid), tg_relid) is distinct from to_regclass({log}) then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('event_piper_remember_deleted() works for %s only', {log}),
            hint = 'After a schema was renamed, run event-piper migrate.';
    end if;
    insert into {schema}.events_pruned as known (subscriber, upto)
    select coalesce(gone.subscriber, ''), max(gone.id) from gone group by 1 order by 1
        on conflict (subscriber) do update
       set upto = greatest(known.upto, excluded.upto), pruned_at = excluded.pruned_at;
    return null;
end
$deleted$),
('event_piper_remember_truncated', 'security definer set search_path = pg_catalog, pg_temp', $truncated$
begin
    if coalesce(pg_partition_root(tg_relid), tg_relid) is distinct from to_regclass({log}) then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('event_piper_remember_truncated() works for %s only', {log}),
            hint = 'After a schema was renamed, run event-piper migrate.';
    end if;
    insert into {schema}.events_pruned as known (subscriber, upto)
    select null, max(e.id) from {schema}.events e having max(e.id) is not null
        on conflict ((subscriber is null)) where subscriber is null do update
       set upto = greatest(known.upto, excluded.upto), pruned_at = excluded.pruned_at;
    return null;
end
$truncated$),
('event_piper_remember_changed', 'security definer set search_path = pg_catalog, pg_temp', $changed$
-- In one order everywhere, so that sessions that change rows at the same time cannot deadlock here.
begin
    if coalesce(pg_partition_root(tg_relid), tg_relid) is distinct from to_regclass({log}) then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('event_piper_remember_changed() works for %s only', {log}),
            hint = 'After a schema was renamed, run event-piper migrate.';
    end if;
    insert into {schema}.events_erased as known (subscriber, upto)
    select coalesce(changed.subscriber, ''), max(changed.id)
      from (select was.subscriber, was.id from was
            union all select became.subscriber, became.id from became) changed
     group by 1 order by 1
        on conflict (subscriber) do update
       set upto = greatest(known.upto, excluded.upto), erased_at = excluded.erased_at,
           xid = excluded.xid;
    return null;
end
$changed$),
('event_piper_once', 'security definer set search_path = pg_catalog, pg_temp', $once$
-- Written once, in a log that is partitioned: asks, and notes, in one step that waits for whoever is
-- writing the same just now. With the rights of the owner, so that a writer needs INSERT on events only.
declare
    twice text;
    noted bigint;
begin
    if coalesce(pg_partition_root(tg_relid), tg_relid) is distinct from to_regclass({log}) then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = format('event_piper_once() works for %s only', {log}),
            hint = 'After a schema was renamed, run event-piper migrate.';
    end if;
    if new.uid is not null then
        insert into {schema}.events_uids (uid) values (new.uid) on conflict do nothing;
        get diagnostics noted = row_count;
        if noted = 0 then
            twice := 'events_uid';
        end if;
    end if;
    if twice is null and new.stream is not null then
        insert into {schema}.events_streams as known (stream, version) values (new.stream, new.version)
            on conflict (stream) do update
           set version = excluded.version where known.version < excluded.version;
        get diagnostics noted = row_count;
        if noted = 0 then
            twice := 'events_stream_version';
            if new.uid is not null then
                delete from {schema}.events_uids known where known.uid = new.uid;
            end if;
        end if;
    end if;
    if twice is null then
        return new;
    end if;
    if current_setting('event_piper.twice', true) = 'skip' then
        return null;
    end if;
    raise exception using
        errcode = 'unique_violation', constraint = twice,
        message = case twice
            when 'events_uid' then format('uid %s was written already', new.uid)
            else format('version %s of stream %s was written already, or a later one',
                        new.version, new.stream)
        end,
        hint = 'To have it skipped: set event_piper.twice = ''skip''.';
end
$once$)
        ) function (name, rights, body)
        -- A log has the last one when partition.sql was run on it.
        where function.name <> 'event_piper_once'
           or to_regclass(format('%I.events_uids', home)) is not null
    loop
        execute format(
            'create or replace function %I.%I() returns trigger language plpgsql %s as %L',
            home, made.name, made.rights,
            replace(replace(replace(made.body,
                '{schema}', quote_ident(home)),
                '{log}', quote_literal(format('%I.events', home))),
                '{amending}', quote_literal(format('%I.event_piper_amending', home))));
    end loop;

    execute format('drop function if exists '
                   '%I.event_piper_amends(bigint, bigint, text, text, jsonb, oid)', home);
    if not exists (select from pg_trigger
                   where tgrelid = to_regclass(format('%I.event_piper_amending', home))
                     and tgname = 'event_piper_amending_check')
    then
        execute format('create trigger event_piper_amending_check before insert on '
                       '%I.event_piper_amending for each row execute function '
                       '%1$I.event_piper_check_amendment()', home);
    end if;
    -- In a session with session_replication_role = replica as well.
    execute format('alter table %I.event_piper_amending '
                   'enable always trigger event_piper_amending_check', home);
    execute format('grant insert on %I.event_piper_amending to public', home);

    -- Whoever owns a function can put another body into it, and whoever owns a table can attach triggers to
    -- it. So they belong to the owner of the log, or to a role that may act as this owner.
    select count(distinct c.relowner) > 1 into several
      from pg_class c
     where c.oid = log or c.relnamespace = schema and c.relname in (
               'events_pruned', 'events_erased', 'events_uids', 'events_streams');
    for made in
        select format('function %s', p.oid::regprocedure) as name, p.proowner as owner, not several as moves
          from pg_proc p
         where p.pronamespace = schema and starts_with(p.proname::text, 'event_piper_') and p.prokind = 'f'
        union all
        select format('table %s', c.oid::regclass), c.relowner, c.relname = 'event_piper_amending'
          from pg_class c
         where c.relnamespace = schema and c.relkind in ('r', 'p')
           and (starts_with(c.relname::text, 'event_piper_')
                or c.relname in ('events_pruned', 'events_keep', 'events_erased', 'events_uids',
                                 'events_streams', 'events_partitions'))
    loop
        if made.owner <> keeper and not pg_has_role(made.owner, keeper, 'member') then
            raise exception using
                errcode = 'EP002',
                message = format('the %s belongs to %s, and the log to %s', made.name,
                                 made.owner::regrole, keeper::regrole),
                hint = format('Find out who made it. If it is right: alter %s owner to %s;',
                              made.name, keeper::regrole);
        elsif made.owner <> keeper and made.moves then
            begin
                execute format('alter %s owner to %s', made.name, keeper::regrole);
            exception when insufficient_privilege then
                raise notice 'the % stays with %', made.name, made.owner::regrole;
            end;
        end if;
    end loop;

    -- The owner of the log attaches them when it is partitioned.
    for made in
        select p.oid::regprocedure as name from pg_proc p
         where p.pronamespace = schema and starts_with(p.proname::text, 'event_piper_') and p.prosecdef
    loop
        execute format('revoke execute on function %s from public', made.name);
        execute format('grant execute on function %s to %s', made.name, keeper::regrole);
    end loop;
    perform set_config('search_path', outside, true);
end
$migration$;

-- Rows that came from the predecessor are kept as they are; every new row must obey. Triggers of a
-- row fire in the order of their names: what others have made of the row before, this one sees.
create trigger events_well_formed before insert or update on events
    for each row execute function event_piper_admit();

-- In a session with session_replication_role = replica as well.
alter table events enable always trigger events_well_formed;

create trigger events_remember_deleted after delete on events
    referencing old table as gone
    for each statement execute function event_piper_remember_deleted();
create trigger events_remember_truncated before truncate on events
    for each statement execute function event_piper_remember_truncated();

alter table events enable always trigger events_remember_deleted;
alter table events enable always trigger events_remember_truncated;

create trigger events_remember_changed after update on events
    referencing old table as was new table as became
    for each statement execute function event_piper_remember_changed();
alter table events enable always trigger events_remember_changed;

-- -------------------------------------------------------------------------------------------------
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

-- -------------------------------------------------------------------------------------------------
-- Where each pump is that feeds an aggregator, and what its aggregator would not take.
create table event_piper_pumps (
    -- The aggregator's name, as the pump's settings have it.
    name       text primary key,
    -- The one pump that runs holds the advisory lock of this number, of the log's class for pumps; others
    -- wait for it.
    number     int not null generated always as identity unique,
    -- One more at each takeover. A pump moves the checkpoint of its own epoch only, so one that was
    -- believed dead, and comes back, can do no harm.
    epoch      bigint not null default 0,
    -- Every event up to here is the aggregator's, or not for it, or was set aside; null before the
    -- first time.
    position   bigint,
    -- The last event that the aggregator has confirmed.
    delivered  bigint not null default 0,
    -- The aggregator was told that its bootstrap is complete.
    booted     boolean not null default false,
    updated_at timestamptz not null default now(),
    -- An aggregator may begin with the next event while transactions that write events are open. What
    -- they wrote has lower ids than events that are not for the aggregator, so one id cannot say what is
    -- owed.
    owed       text
);

comment on column event_piper_pumps.owed is
    'Where the aggregator began, as a cursor, if transactions were late there; null once position has passed it';

comment on table event_piper_pumps is 'EventPiper: how far each aggregator has been fed';

-- Events that an aggregator refused. The event itself stays where it is, in the log.
create table event_piper_dead_letters (
    pump     text not null references event_piper_pumps (name) on update cascade on delete cascade,
    event_id bigint not null,
    state    text not null
        -- blocking: the pump has stopped before it; set-aside: the pump went on behind it;
        -- retry: to be sent again; skipped: never to be sent.
        check (state in ('blocking', 'set-aside', 'retry', 'skipped')),
    -- What the aggregator said.
    reason   text not null,
    noted_at timestamptz not null default now(),
    primary key (pump, event_id)
);

comment on table event_piper_dead_letters is 'EventPiper: events that an aggregator refused';

-- -------------------------------------------------------------------------------------------------
-- Nobody but the owner of the log decides what its functions do with their owner's rights.
--
-- These functions read and write the tables of the log. Whoever owns such a table, or may create triggers on
-- it, decides what runs there. So an ordinary role could act as the owner of the functions in two ways:
--
--   * The functions belonged to another role than the table: a superuser had migrated, and then
--     `alter table events owner to app`.
--   * The role had the privilege TRIGGER or REFERENCES on a table that a function writes to, as `grant all
--     on all tables` gives them. (What a foreign key with ON DELETE CASCADE deletes may have triggers, too.)
--
-- From here on each function asks first whether it works with such a table, and refuses if so. This file
-- gives all of them to the owner of the log, and takes these privileges away.
--
-- An amendment is checked when it is inserted only: who erases events had to have the right to INSERT. And
-- `event_piper.prune`, which anybody may set, spares nobody the check but those who may give an xid.
--
-- The tables that remember what was pruned and erased get a replica identity. Without one, PostgreSQL refuses
-- to prune or erase for the second time while there is a publication for all tables.
do $migration$
declare
    outside constant text := pg_catalog.current_setting('search_path');
    home    name;
    schema  oid;
    -- The owner of the log.
    keeper  oid;
    made    record;
    body    text;
begin
    select n.nspname, n.oid, c.relowner
      into strict home, schema, keeper
      from pg_catalog.pg_class c
      join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
     where c.oid operator(pg_catalog.=) pg_catalog.to_regclass('events');
    -- Nothing that is not PostgreSQL's own has a say in what follows.
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

    for made in
        select format('table %s', c.oid::regclass) as name, c.relowner as owner
          from pg_class c
         where c.relnamespace = schema and c.relkind in ('r', 'p')
           and c.relname in ('events_pruned', 'events_erased', 'events_uids', 'events_streams',
                             'event_piper_amending')
        union all
        select format('function %s', p.oid::regprocedure), p.proowner
          from pg_proc p
         where p.pronamespace = schema and starts_with(p.proname::text, 'event_piper_') and p.prokind = 'f'
    loop
        if made.owner <> keeper and not pg_has_role(made.owner, keeper, 'member') then
            raise exception using
                errcode = 'EP002',
                message = format('the %s belongs to %s, and the log to %s', made.name,
                                 made.owner::regrole, keeper::regrole),
                hint = format('Find out who made it. If it is right: alter %s owner to %s;',
                              made.name, keeper::regrole);
        elsif made.owner <> keeper then
            begin
                execute format('alter %s owner to %s', made.name, keeper::regrole);
            exception when insufficient_privilege then
                raise exception using
                    errcode = 'EP002',
                    message = format('the %1$s belongs to %2$s, and the log to %3$s, which could act as %2$s',
                                     made.name, made.owner::regrole, keeper::regrole),
                    hint = 'Run event-piper migrate once as a superuser.';
            end;
        end if;
    end loop;

    for made in
        select c.oid::regclass as name, case given.grantee when 0 then 'public'
                                             else given.grantee::regrole::text end as grantee,
               given.privilege_type as privilege
          from pg_class c, aclexplode(c.relacl) given
         where c.relnamespace = schema and c.relkind in ('r', 'p') and given.grantee <> c.relowner
           and given.privilege_type in ('TRIGGER', 'REFERENCES')
           and c.relname in ('events_pruned', 'events_erased', 'events_uids', 'events_streams',
                             'event_piper_amending', 'event_piper_keys')
    loop
        execute format('revoke %s on %s from %s cascade', made.privilege, made.name, made.grantee);
    end loop;

    for made in
        select p.proname as name, p.prosrc as body,
               (select string_agg(format('%L::regclass', format('%I.%I', home, its)), ', ')
                  from unnest(known.tables) its) as tables
          from pg_proc p
          join (values
                   ('event_piper_check_amendment', array['events', 'event_piper_amending']),
                   ('event_piper_remember_deleted', array['events', 'events_pruned']),
                   ('event_piper_remember_truncated', array['events', 'events_pruned']),
                   ('event_piper_remember_changed', array['events', 'events_erased']),
                   ('event_piper_once', array['events', 'events_uids', 'events_streams'])
               ) known (name, tables) on known.name = p.proname
         where p.pronamespace = schema and position('relhastriggers' in p.prosrc) = 0
    loop
        -- Behind the question for which table it is called.
        body := regexp_replace(made.body, E'\n    end if;\n', replace(format($guard$
    end if;
    -- Whoever owns one of these tables, a function that a trigger of them calls, or a table with a foreign
    -- key on them, decides what runs here.
    if exists (select from pg_class c
                where c.oid in (%1$s)
                  and (not pg_has_role(c.relowner, current_user, 'member')
                       or c.relhastriggers and c.relname <> 'events' and exists (
                              select from pg_trigger t
                                left join pg_proc p on p.oid = t.tgfoid and not t.tgisinternal
                                left join pg_class f on f.oid = t.tgconstrrelid and t.tgisinternal
                               where t.tgrelid = c.oid
                                 and not pg_has_role(coalesce(p.proowner, f.relowner), current_user,
                                                     'member'))))
    then
        raise exception using
            errcode = 'insufficient_privilege',
            message = '%2$s() refuses to work: by a table of the log that it uses, or a trigger of that '
                || 'table, another role could act as its owner',
            hint = 'Drop triggers and foreign keys of others on this table. If the log belongs to another role than its '
                || 'functions, run event-piper migrate as a superuser.';
    end if;
$guard$,
            made.tables, made.name), E'\\', E'\\\\'));
        if body = made.body then
            raise exception 'the function % is not the one that this program makes', made.name;
        end if;
        if made.name = 'event_piper_check_amendment' then
            -- Whoever has changed to another role writes with the rights of that role.
            body := replace(body, 'if has_any_column_privilege(session_user, ', $may$if (
            has_any_column_privilege(session_user, {log}, 'INSERT')
            or current_setting('role') <> 'none'
               and has_any_column_privilege(current_setting('role')::name, $may$);
            body := replace(body, $was$, 'INSERT') is not true then$was$,
                            $is$, 'INSERT')) is not true then$is$);
            -- Whoever may give a row its xid loads rows from elsewhere, in any order. Writers may not, and
            -- cannot do without the check by a setting.
            body := replace(body, $was$if current_setting('event_piper.prune', true) = 'on' then$was$,
                            $is$if current_setting('event_piper.prune', true) = 'on' and (
            has_column_privilege(session_user, {log}, 'xid', 'INSERT')
            or current_setting('role') <> 'none'
               and has_column_privilege(current_setting('role')::name, {log}, 'xid', 'INSERT'))
    then$is$);
            body := replace(body, '{log}', quote_literal(format('%I.events', home)));
        end if;
        execute format('create or replace function %I.%I() returns trigger language plpgsql '
                       'security definer set search_path = pg_catalog, pg_temp as %L',
                       home, made.name, body);
    end loop;

    -- What is changed later was right when it was written. Whoever erases needs no right to INSERT.
    select p.prosrc into strict body
      from pg_proc p where p.pronamespace = schema and p.proname = 'event_piper_admit';
    execute format('create or replace function %I.event_piper_admit() returns trigger language plpgsql as %L',
                   home, replace(body, 'if new.amends is not null then',
                                 $is$if new.amends is not null and tg_op operator(pg_catalog.=) 'INSERT' then$is$));

    execute format('alter table %I.events_pruned replica identity full', home);
    execute format('alter table %I.events_erased replica identity full', home);
    perform set_config('search_path', outside, true);
end
$migration$;

-- -------------------------------------------------------------------------------------------------
-- What `event-piper migrate` would have noted, so that it goes on from here.
create table event_piper_migrations (
    number     int primary key,
    name       text not null,
    checksum   text not null,
    applied_at timestamptz not null default now()
);

insert into event_piper_migrations (number, name, checksum) values
    (1, '0001_predecessor',
     'f1eb22fc3ae7846ceffc0d2d12914656ac3ea43e4160e287dcdad6d042f76d95'),
    (2, '0002_events',
     'ab95266dcbdb1e303683d707c8198b67553e24b9cd6ac9ba3f37c7ea1f5d2519'),
    (3, '0003_doorbell',
     '9108897c4e094ceff77298bfe9daffa42f9a25079641d0ef3f5e7cd4614d71b1'),
    (4, '0004_append_only',
     '5f8f6a61a7c7ec94cd8c78c48d54bc6c3112d71c1b520599495f5e8e3c4003af'),
    (5, '0005_events_pruned',
     'ef5a50855ee236578bcf5cf4e8c2b9cdf28b3fa264700ff9ec6fc7cfcce0a5f9'),
    (6, '0006_corrections_and_retention',
     'b0282061f4184d04a01cfaa47b9e30301c746867bd601dc2ad15c561ba9fa892'),
    (7, '0007_keys',
     '18974412d1a693d4744308d7be1877a4bc50a0399187afd720f61b2aa1104e03'),
    (8, '0008_pumps',
     '14efd972ce9665bc8a5a8568f208ee05d79346e7a3f145e4f202a21e25fa9ae7'),
    (9, '0009_admit',
     '951532c5bb49c535149fb4459f7b2fd1359ce7294b4d82544cf7c37a25d78ef5'),
    (10, '0010_owners_rights',
     '2bd7adf6fd4ef43f4ffb05e7bb91f2a4466509084c2de25a87828ea3b4036947'),
    (11, '0011_any_session',
     'bda17b62f3ec8d57eabfb73d078bce99577ae67099a51f8a32ab732f096d0937'),
    (12, '0012_one_owner',
     'c007d8c1ac213eea0515f0a974d884d4e33ec8a08c8ce3ba9139dbdd1a67e2e3'),
    (13, '0013_pump_start',
     '3b27950ea487f1eb2cd423cfd635cbefb4db843d147912764bb75a153e44b7d6');
