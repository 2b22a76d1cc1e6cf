-- Six roles, none of which can log in by itself: grant them to those that do.
--
--     event_piper_owner     owns the tables; migrates, and may do all else
--     event_piper_writer    may INSERT events, and nothing else
--     event_piper_gateway   may read what delivery needs, and nothing else
--     event_piper_pump      the same, and keeps checkpoints and dead letters of aggregators; for
--                           `event-piper pump`, and for a gateway that runs pumps
--     event_piper_pruner    may take events out: `event-piper prune`
--     event_piper_eraser    may take out what events said: `event-piper erase`
--
--     create role shop login password '...';
--     grant event_piper_writer to shop;
--
-- Run it as a superuser, in the schema where the tables live, after `event-piper migrate` or
-- schema.sql. It can be run again at any time, and should be after an upgrade of EventPiper.

do $$
declare
    name text;
begin
    foreach name in array
        array['event_piper_owner', 'event_piper_writer', 'event_piper_gateway',
              'event_piper_pump', 'event_piper_pruner', 'event_piper_eraser']
    loop
        if not exists (select from pg_roles where rolname = name) then
            execute format('create role %I nologin', name);
        end if;
    end loop;
    execute format('grant usage, create on schema %I to event_piper_owner', current_schema());
    execute format('grant usage on schema %I to event_piper_writer, event_piper_gateway, '
                   'event_piper_pruner, event_piper_eraser', current_schema());
end
$$;

alter table events owner to event_piper_owner;
alter table events_pruned owner to event_piper_owner;
alter table events_keep owner to event_piper_owner;
alter table events_erased owner to event_piper_owner;
alter table event_piper_migrations owner to event_piper_owner;
alter table event_piper_keys owner to event_piper_owner;
alter table event_piper_pumps owner to event_piper_owner;
alter table event_piper_dead_letters owner to event_piper_owner;
alter table event_piper_amending owner to event_piper_owner;
alter function event_piper_admit() owner to event_piper_owner;
alter function event_piper_replicated() owner to event_piper_owner;
alter function event_piper_doorbell() owner to event_piper_owner;
alter function event_piper_append_only() owner to event_piper_owner;
alter function event_piper_remember_deleted() owner to event_piper_owner;
alter function event_piper_remember_truncated() owner to event_piper_owner;
alter function event_piper_remember_changed() owner to event_piper_owner;
alter function event_piper_check_amendment() owner to event_piper_owner;

-- What partition.sql has made, where it was run.
do $$
declare
    its record;
begin
    for its in
        select format('table %s', c.oid::regclass) as name
          from pg_class c
         where c.relnamespace = (select oid from pg_namespace where nspname = current_schema())
           and c.relname in ('events_uids', 'events_streams', 'events_partitions')
        union all
        select format('table %s', inhrelid::regclass) from pg_inherits where inhparent = 'events'::regclass
        union all
        select format('routine %s', p.oid::regprocedure)
          from pg_proc p
         where p.pronamespace = (select oid from pg_namespace where nspname = current_schema())
           and p.proname in ('event_piper_once', 'event_piper_prepare_partitions', 'event_piper_partition',
                             'event_piper_add_partitions', 'event_piper_detach_partition')
    loop
        execute format('alter %s owner to event_piper_owner', its.name);
    end loop;
end
$$;

-- Neither id nor xid: the database gives them. (With INSERT on the whole table, a writer could choose
-- an id, by `overriding system value` or COPY, that readers have passed already.) The identity's
-- sequence and the triggers' functions need no grant. Amendments are checked by a table that everybody
-- may insert into; the grant is here as well, for databases where PUBLIC was deprived of it.
grant insert (type, "timestamp", subscriber, payload, stream, version, uid, metadata,
              amends)
    on events to event_piper_writer;
grant insert on event_piper_amending to event_piper_writer;

grant select on events, events_pruned, events_erased, event_piper_migrations to event_piper_gateway;
-- Hashes of keys, for `--auth keys`. Making and revoking keys is the owner's.
grant select on event_piper_keys to event_piper_gateway;
grant select on sequence events_id_seq to event_piper_gateway;

-- A pump enrols its aggregator, moves its checkpoint, and notes what the aggregator refused. To
-- forget an aggregator for good is the owner's.
grant event_piper_gateway to event_piper_pump;
grant select, insert, update on event_piper_pumps to event_piper_pump;
grant select, insert, update, delete on event_piper_dead_letters to event_piper_pump;

-- What goes and what is changed, triggers note with their owner's rights. Neither can do anything
-- without `event_piper.prune`, as anybody else.
grant select, delete on events to event_piper_pruner;
grant select on events_keep to event_piper_pruner;

grant select, update (payload, metadata) on events to event_piper_eraser;
grant select, insert, update on events_erased to event_piper_eraser;
