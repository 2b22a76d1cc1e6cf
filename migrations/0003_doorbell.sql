-- The doorbell: tells a sleeping reader that events are coming, and costs writers next to nothing
-- while the reader is awake, or when there is none.
--
-- NOTIFY in every transaction would let writers commit only one after the other. So a reader that is
-- about to sleep takes a lock, and only writers who find it taken notify. The notification is empty:
-- readers read the table.
--
-- The locks are advisory, in the two-integer key space; the first integer is 17744 (0x4550, "EP"):
--     1 BELL     held by a reader that sleeps (exclusive), or by each writer who found nobody asleep
--     2 WRITER   held by each writer who rang
--     3 KEEPER   held by the one reader, of several, that minds the bell
--     4 READER   held by each reader (shared)
--     5 MIGRATE  held while these files are applied
--
-- Every writer holds BELL or WRITER before it draws an id, until it has ended and its rows are
-- visible: so a reader who misses an id can tell whether it may still come. That is why the trigger
-- is of the statement, and before it: it runs before the first row's defaults.
--
-- A writer needs no right but INSERT for any of this.
create or replace function event_piper_doorbell() returns trigger
language plpgsql as $doorbell$
declare
    -- The transaction has its id before it has a lock: readers look for both.
    writer constant xid8 not null := pg_catalog.pg_current_xact_id();
begin
    if not pg_catalog.pg_try_advisory_xact_lock_shared(17744, 1) then
        perform pg_catalog.pg_advisory_xact_lock_shared(17744, 2);
        -- PREPARE TRANSACTION does not allow NOTIFY. Who needs it says
        -- `set event_piper.bell = 'off'`; readers then find the event within a second.
        if pg_catalog.current_setting('event_piper.bell', true) is distinct from 'off' then
            perform pg_catalog.pg_notify('new_events', '');
        end if;
    end if;
    return null;
end
$doorbell$;

create trigger events_doorbell before insert on events
    for each statement execute function event_piper_doorbell();

-- Always, even in a session with session_replication_role = replica: a row that comes without the
-- bell could be passed over.
alter table events enable always trigger events_doorbell;
