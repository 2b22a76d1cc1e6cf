//! The columns that the queries on the log read.

/// The columns of a row that is delivered, of the table `events` under the name `log`. Each is cast to the
/// type that the program reads. The cast is free where the column has that type, and otherwise keeps a change
/// of the column's type out of the answer.
///
/// Every query on the log names each column with its table, and uses no `*`: a column that users add must not
/// be taken for one of ours, whatever its name is.
macro_rules! delivered {
    () => {
        "log.id::int8 as id, log.xid::xid8 as xid, log.type::text as type,
        log.payload::jsonb as payload, log.amends::int8 as amends"
    };
}

/// The same columns, with the payload only if it takes less room than a page of the table. A larger payload
/// is withheld, because these queries limit pages in rows only. See [`Page::of_small`].
macro_rules! delivered_small {
    () => {
        "log.id::int8 as id, log.xid::xid8 as xid, log.type::text as type,
        case when pg_column_size(log.payload) <= 8192 then log.payload::jsonb end as payload,
        log.amends::int8 as amends"
    };
}

/// The columns for cutting a page of rows, named `item`, at its size in bytes, in the order of ids.
macro_rules! measured {
    () => {
        "count(*) over () as found,
         sum(pg_column_size(item.payload)) over (order by item.id)
             - pg_column_size(item.payload) as before"
    };
}

pub(crate) use {delivered, delivered_small, measured};
