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

-- Both functions run with their owner's rights, so that pruning needs DELETE or TRUNCATE only, and
-- therefore name every object in full.

-- In one order everywhere, so that sessions that prune at the same time cannot deadlock.
create function event_piper_remember_deleted() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $remember_deleted$
begin
    execute format(
        'insert into %I.events_pruned as known (subscriber, upto) '
        'select coalesce(subscriber, ''''), max(id) from gone group by 1 order by 1 '
        'on conflict (subscriber) do update '
        'set upto = greatest(known.upto, excluded.upto), pruned_at = excluded.pruned_at',
        tg_table_schema);
    return null;
end
$remember_deleted$;

create function event_piper_remember_truncated() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $remember_truncated$
begin
    execute format(
        'insert into %1$I.events_pruned as known (subscriber, upto) '
        'select null, max(id) from %1$I.events having max(id) is not null '
        'on conflict ((subscriber is null)) where subscriber is null do update '
        'set upto = greatest(known.upto, excluded.upto), pruned_at = excluded.pruned_at',
        tg_table_schema);
    return null;
end
$remember_truncated$;

create trigger events_remember_deleted after delete on events
    referencing old table as gone
    for each statement execute function event_piper_remember_deleted();
create trigger events_remember_truncated before truncate on events
    for each statement execute function event_piper_remember_truncated();

alter table events enable always trigger events_remember_deleted;
alter table events enable always trigger events_remember_truncated;
