//! The columns that the queries on the log read.

/// The columns of a row that is delivered, of the table `events` under the name `log`. Each is cast to
/// the type that the program reads, which costs nothing where it has that type: so a change of a
/// column's type changes the type of no answer.
///
/// In every query on the log each column is named with its table, and no `*` is used: a column that
/// users add must not be taken for one of ours, whatever its name is.
macro_rules! delivered {
    () => {
        "log.id::int8 as id, log.xid::xid8 as xid, log.type::text as type,
        log.payload::jsonb as payload, log.amends::int8 as amends"
    };
}

/// The same with a payload only where it takes less room than a page of the table: a larger one is
/// withheld, for rows that are asked for together may not be large. See [`Page::of_small`].
macro_rules! delivered_small {
    () => {
        "log.id::int8 as id, log.xid::xid8 as xid, log.type::text as type,
        case when pg_column_size(log.payload) <= 8192 then log.payload::jsonb end as payload,
        log.amends::int8 as amends"
    };
}

/// What is needed to cut a page of rows, which are called `item`, at its size in bytes, in the order of
/// their ids.
macro_rules! measured {
    () => {
        "count(*) over () as found,
         sum(pg_column_size(item.payload)) over (order by item.id)
             - pg_column_size(item.payload) as before"
    };
}

pub(crate) use {delivered, delivered_small, measured};
