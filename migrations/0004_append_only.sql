-- What happened stays: UPDATE, DELETE and TRUNCATE of the log are refused, and with them
-- `on conflict do update`. To prune, which needs the right to do so as well, say
--
--     begin;
--     set local event_piper.prune = 'on';
--     delete from events where ...;
--     commit;
create function event_piper_append_only() returns trigger
language plpgsql as $append_only$
begin
    if pg_catalog.current_setting('event_piper.prune', true) is distinct from 'on' then
        raise exception using
            errcode = 'object_not_in_prerequisite_state',
            message = pg_catalog.format('%I is append-only: %s was refused', tg_table_name, tg_op),
            hint = 'To prune on purpose: begin; set local event_piper.prune = ''on''; ... commit;';
    end if;
    return null;
end
$append_only$;

create trigger events_append_only before update or delete on events
    for each statement execute function event_piper_append_only();
create trigger events_append_only_truncate before truncate on events
    for each statement execute function event_piper_append_only();

-- In a session with session_replication_role = replica as well: there is one door, and it has a name.
alter table events enable always trigger events_append_only;
alter table events enable always trigger events_append_only_truncate;
