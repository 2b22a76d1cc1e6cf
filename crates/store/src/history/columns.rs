//! The columns of a full event.

/// All columns of an event, of the table `events` under the name `log`. RFC 3339 has years of four digits and
/// no infinity, PostgreSQL has more: such a time is shown as PostgreSQL prints it.
macro_rules! whole {
    () => {
        r#"log.id::int8 as id, log.type::text as type, log.subscriber::text as subscriber,
        log.payload::text as payload, log.stream::text as stream, log.version::int8 as version,
        log.uid::text as uid, log.metadata::text as metadata,
        case when extract(year from log."timestamp" at time zone 'UTC') between 1 and 9999
             then to_char(log."timestamp" at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
             else log."timestamp"::text end as "timestamp",
        log.amends::int8 as amends, log.xid::xid8 as xid"#
    };
}

pub(super) use whole;
