-- Where each pump is that feeds an aggregator, and what its aggregator would not take.
create table event_piper_pumps (
    -- The aggregator's name, as the pump's settings have it.
    name       text primary key,
    -- The one pump that runs holds the advisory lock (17745, number); others wait for it.
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
    updated_at timestamptz not null default now()
);

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
