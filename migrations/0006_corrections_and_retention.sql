-- What is done to the log after it was written: corrections, which are events themselves; pruning; and
-- erasure, which takes out what was said and leaves that something was said.

-- A correction names the earlier event that it amends, and its payload is the patch: a JSON array is a
-- JSON Patch (RFC 6902), anything else a merge patch (RFC 7396). Both events stay as they are;
-- whoever asks with `amended=true` is shown the payload as corrected.
alter table events add column amends bigint;
comment on column events.amends is
    'the earlier event whose payload this one corrects: by a JSON Patch when its own is an array, '
    'else by a merge patch';

-- How an event's corrections are found. Costs nothing to rows that correct nothing.
create index events_amends on events (amends, id) where amends is not null;

-- What a correction must be. It reads the event that it corrects with the rights of the table's owner,
-- since a writer may have the right to INSERT only.
create function event_piper_amends() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $amends$
declare
    target  record;
    refused text;
begin
    execute format('select subscriber, stream, amends from %I.events where id = $1', tg_table_schema)
       into target using new.amends;
    refused := case
        when target is null or new.amends >= new.id then
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
    if refused is null then
        -- So that reading an event as corrected is bounded. Writers that are at it at the same moment
        -- may exceed it by as many as they are.
        execute format('select ''there are %2$s amendments of event '' || $1 '
                       'where (select count(*) from (select from %1$I.events where amends = $1 '
                       'limit %2$s + 1) known) > %2$s', tg_table_schema, 1000)
           into refused using new.amends;
    end if;
    if refused is not null then
        raise exception using
            errcode = 'check_violation', constraint = 'events_amends_an_event',
            message = format('refused this amendment: %s', refused);
    end if;
    return null;
end
$amends$;

-- After the row, for COPY writes rows one by one where a trigger comes before them.
create trigger events_amends after insert on events
    for each row when (new.amends is not null) execute function event_piper_amends();
alter table events enable always trigger events_amends;

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

-- In one order everywhere, so that sessions that change rows at the same time cannot deadlock here.
create function event_piper_remember_changed() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $remember_changed$
begin
    execute format(
        'insert into %I.events_erased as known (subscriber, upto) '
        'select coalesce(subscriber, ''''), max(id) '
        'from (select subscriber, id from was union all select subscriber, id from became) changed '
        'group by 1 order by 1 '
        'on conflict (subscriber) do update '
        'set upto = greatest(known.upto, excluded.upto), erased_at = excluded.erased_at, '
        'xid = excluded.xid', tg_table_schema);
    return null;
end
$remember_changed$;

create trigger events_remember_changed after update on events
    referencing old table as was new table as became
    for each statement execute function event_piper_remember_changed();
alter table events enable always trigger events_remember_changed;

-- One more of the doorbell's locks (see 0003): 6 PRUNE, held by the one who prunes.
