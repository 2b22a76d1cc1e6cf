-- Six roles that cannot log in. Grant them to roles that can.
--
--     event_piper_owner     owns the tables; runs migrations, and has all rights
--     event_piper_writer    may INSERT events, and nothing else
--     event_piper_gateway   may read what delivery needs, and nothing else
--     event_piper_pump      the same, and writes checkpoints and dead letters of aggregators; for
--                           `event-piper pump`, and for a gateway that runs pumps
--     event_piper_pruner    may delete events: `event-piper prune`
--     event_piper_eraser    may erase the content of events: `event-piper erase`
--
--     create role shop login password '...';
--     grant event_piper_writer to shop;
--
-- Run this file as a superuser, in the schema of the tables, after `event-piper migrate` or
-- schema.sql. It can be run again at any time. Run it again after each upgrade of EventPiper.

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

-- The objects that partition.sql has created, if it was run.
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

-- Not id and xid: the database sets them. (With INSERT on the whole table, a writer could use `overriding
-- system value` or COPY to choose an id that readers have already passed.) The identity's
-- sequence and the triggers' functions need no grant. Amendments are checked through a table that every role
-- may insert into; it is granted here as well, for databases where the grant to PUBLIC was revoked.
grant insert (type, "timestamp", subscriber, payload, stream, version, uid, metadata,
              amends)
    on events to event_piper_writer;
grant insert on event_piper_amending to event_piper_writer;

grant select on events, events_pruned, events_erased, event_piper_migrations to event_piper_gateway;
-- Hashes of keys, for `--auth keys`. Only the owner creates and revokes keys.
grant select on event_piper_keys to event_piper_gateway;
grant select on sequence events_id_seq to event_piper_gateway;

-- A pump registers its aggregator, moves its checkpoint, and records refused events. Only the owner can delete
-- an aggregator.
grant event_piper_gateway to event_piper_pump;
grant select, insert, update on event_piper_pumps to event_piper_pump;
grant select, insert, update, delete on event_piper_dead_letters to event_piper_pump;

-- Triggers record deletions and changes with their owner's rights. Like all roles, these two can delete and
-- change events only with `event_piper.prune` set.
grant select, delete on events to event_piper_pruner;
grant select on events_keep to event_piper_pruner;

grant select, update (payload, metadata) on events to event_piper_eraser;
grant select, insert, update on events_erased to event_piper_eraser;
