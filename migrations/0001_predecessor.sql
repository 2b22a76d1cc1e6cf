-- For those who come from the predecessor (EventPiper in Elixir); anywhere else this does nothing.
--
-- Its table becomes ours in place: every row and every id stays, nothing is rewritten, so it is quick
-- on a large table, but nobody can use the table meanwhile. What a new row must obey is added by the
-- next file, and is not asked of the rows that are here already.
--
-- A table `events` of any other shape is not touched: this ends with error EP001, which says what was
-- found.
do $$
declare
    events   regclass := to_regclass(format('%I.events', current_schema()));
    shape    text;
    sequence text;
    rest     record;
    next_id  bigint;
begin
    if events is null then
        return;
    end if;

    select string_agg(attname || ' ' || format_type(atttypid, null), ', ' order by attname)
      into shape
      from pg_attribute
     where attrelid = events and attnum > 0 and not attisdropped;
    if shape is not distinct from 'id bigint, payload jsonb, subscriber character varying, '
                           || 'timestamp timestamp without time zone, type character varying'
       and (select relkind = 'r' from pg_class where oid = events)
    then
        sequence := pg_get_serial_sequence(events::text, 'id');
    end if;
    if sequence is null then
        raise exception using
            errcode = 'EP001',
            message = format('there is a table %s already, and it is not EventPiper''s: %s',
                             events, coalesce(shape, 'no columns')),
            hint = 'Rename that table, or give EventPiper a schema of its own: create one, and let '
                || 'the role''s search_path begin with it.';
    end if;

    execute format('lock table %s in access exclusive mode', events);

    -- Its triggers notify once a row, which lets writers commit only one after the other; what they
    -- called is of no use to anybody else, unless something else still calls it.
    for rest in
        select tgname, tgfoid::regprocedure as function
          from pg_trigger
         where tgrelid = events and not tgisinternal
           and tgfoid in (select oid from pg_proc where prosrc ~* 'pg_notify|\mnotify\M')
    loop
        execute format('drop trigger %I on %s', rest.tgname, events);
        begin
            execute format('drop function %s', rest.function);
        exception when dependent_objects_still_exist or insufficient_privilege then
            raise notice 'kept the function %, something else uses or owns it', rest.function;
        end;
    end loop;

    -- Its index on subscriber alone; ours, on (subscriber, id), serves the same and more.
    for rest in
        select i.indexrelid::regclass as index
          from pg_index i
          join pg_attribute a on a.attrelid = i.indrelid and a.attname = 'subscriber'
         where i.indrelid = events and not i.indisunique and i.indkey::text = a.attnum::text
    loop
        execute format('drop index %s', rest.index);
    end loop;

    -- Under UTC these two types differ in name only, so that no row is rewritten; and UTC is what the
    -- predecessor's times without a zone were written in.
    set local timezone = 'UTC';
    execute format(
        'alter table %s alter type type text, '
        'alter subscriber type text, alter subscriber drop not null, '
        'alter "timestamp" type timestamptz', events);
    execute format('alter table %s alter "timestamp" set default now()', events);

    -- The ids go on after both the rows and the sequence: a client may have seen an id that is gone.
    execute format('select greatest((select max(id) from %s), '
                   '(select last_value from %s where is_called), 0) + 1', events, sequence)
       into next_id;
    execute format('alter table %s alter id drop default', events);
    execute format('drop sequence %s', sequence);
    execute format('alter table %s alter id add generated always as identity (start with %s)',
                   events, next_id);

    -- Transaction 2 is PostgreSQL's own name for "committed long ago": no transaction that runs
    -- now or ever will can be taken for the writer of these rows.
    execute format(
        'alter table %s add stream text, add version bigint, add uid uuid, add metadata jsonb, '
        'add xid xid8 not null default ''2''', events);
    execute format('alter table %s alter xid set default pg_catalog.pg_current_xact_id()', events);
end
$$;
