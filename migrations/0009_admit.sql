-- What a row must be is asked by a trigger from here on, and no longer by a check constraint. The rules
-- are those of 0006, word by word. PostgreSQL takes a check constraint apart and plans it anew in each
-- statement: that took a third of an INSERT, and the question itself took less.
alter table events drop constraint events_well_formed;
drop function event_piper_admits(text, text, text, bigint, xid8, bigint, bigint, jsonb, oid);

-- What a row must be. It first asks whether all is well, of events without a stream and of those with
-- one, and looks for words only if not. Each function that a condition calls costs writers more to set
-- up, once a transaction, than to call.
--
-- A name is one line, not empty, without control characters (Unicode's Cc), and no longer than fits
-- into an index for certain.
create function event_piper_admit() returns trigger language plpgsql as $admit$
declare
    refused text;
begin
    if new.stream is null and new.version is null and new.amends is null
       and new.type !~ '^$|^\$|[[:cntrl:]]' and pg_catalog.octet_length(new.type) <= 1024
       and new.subscriber !~ '^$|[[:cntrl:]]' and pg_catalog.octet_length(new.subscriber) <= 1024
       and new.xid = pg_catalog.pg_current_xact_id()
    then
        return new;
    elsif new.version >= 1 and new.amends is null
       and new.type !~ '^$|^\$|[[:cntrl:]]' and pg_catalog.octet_length(new.type) <= 1024
       and (new.subscriber is null
            or new.subscriber !~ '^$|[[:cntrl:]]'
               and pg_catalog.octet_length(new.subscriber) <= 1024)
       and new.stream !~ '^$|[[:cntrl:]]' and pg_catalog.octet_length(new.stream) <= 1024
       and new.xid = pg_catalog.pg_current_xact_id()
    then
        return new;
    end if;

    refused := case
        when new.type = '' then 'type is empty'
        when new.subscriber = '' then 'subscriber is empty'
        when new.stream = '' then 'stream is empty'
        when new.type ~ '^\$' then 'type begins with $: such names are the gateway''s own'
        when new.type ~ '[[:cntrl:]]' then 'type contains a control character'
        when new.subscriber ~ '[[:cntrl:]]' then 'subscriber contains a control character'
        when new.stream ~ '[[:cntrl:]]' then 'stream contains a control character'
        when pg_catalog.octet_length(new.type) > 1024 then 'type is longer than 1024 bytes'
        when pg_catalog.octet_length(new.subscriber) > 1024
            then 'subscriber is longer than 1024 bytes'
        when pg_catalog.octet_length(new.stream) > 1024 then 'stream is longer than 1024 bytes'
        when (new.stream is null) <> (new.version is null)
            then 'stream and version belong together'
        when new.stream is null and new.subscriber is null
            then 'neither subscriber nor stream is given'
        when new.version < 1 then 'version counts from 1'
        -- Who loads rows from elsewhere, or corrects one, says so as for pruning (see append-only).
        -- roles.sql keeps writers from giving an xid at all.
        when new.xid <> pg_catalog.pg_current_xact_id()
             and pg_catalog.current_setting('event_piper.prune', true) is distinct from 'on'
        then 'xid is given by the database, not by the writer'
    end;
    if refused is not null then
        raise exception using
            errcode = 'check_violation', constraint = 'events_well_formed',
            message = pg_catalog.format('refused this event: %s', refused);
    end if;
    if new.amends is not null then
        perform event_piper_amends(
            new.amends, new.id, new.subscriber, new.stream, new.payload, tg_relid);
    end if;
    return new;
end
$admit$;

-- Rows that came from the predecessor are kept as they are; every new row must obey. Triggers of a
-- row fire in the order of their names: what others have made of the row before, this one sees.
create trigger events_well_formed before insert or update on events
    for each row execute function event_piper_admit();

-- In a session with session_replication_role = replica as well.
alter table events enable always trigger events_well_formed;
