-- An aggregator may begin with the next event (`pump --start now`) while transactions that write events are open.
-- What they wrote has lower ids than events that are not for the aggregator, so one id cannot say what is owed.
alter table event_piper_pumps add column owed text;

comment on column event_piper_pumps.owed is
    'Where the aggregator began, as a cursor, if transactions were late there; null once position has passed it';
