//! Checks that the table `events` is a log of ours before it is read.

use tokio_postgres::Client;

/// There is no log to work on. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum NoLog {
    /// There is no table `events`.
    #[error(
        "there is no table events on the role's search_path, or the role may not use its schema; \
         run `event-piper migrate` as the tables' owner"
    )]
    Missing,
    /// The name `events` belongs to something else, such as a view.
    #[error(
        "there is {what} {table}, and it is not EventPiper's. Rename it, or give EventPiper a schema of its \
         own: create one, and let the role's search_path begin with it"
    )]
    NoTable {
        /// The name, with its schema.
        table: String,
        /// What has the name.
        what: String,
    },
    /// There is a table of this name with other columns.
    #[error(
        "there is a table {table}, and it is not EventPiper's: {columns}. Rename that table, or give \
         EventPiper a schema of its own: create one, and let the role's search_path begin with it"
    )]
    Foreign {
        /// The table's name, with its schema.
        table: String,
        /// The table's columns, with their types.
        columns: String,
    },
    /// The table is the predecessor's, or of an earlier version.
    #[error("the table {table} lacks {missing}; run `event-piper migrate` as its owner")]
    Behind {
        /// The table's name, with its schema.
        table: String,
        /// The columns that are missing or have another type.
        missing: String,
    },
    /// The catalogue could not be read.
    #[error("reading the columns of the table events")]
    Query(#[from] tokio_postgres::Error),
}

/// A column that is read.
struct Column {
    name: &'static str,
    kind: Kind,
    /// Whether the predecessor's table has the column. A table without it is not ours.
    original: bool,
}

/// The type that a column must have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// This type.
    Type(&'static str),
    /// Any type of character strings.
    Text,
    /// Any type of points in time.
    Time,
}

const fn column(name: &'static str, kind: Kind, original: bool) -> Column {
    Column { name, kind, original }
}

const COLUMNS: [Column; 11] = [
    column("id", Kind::Type("bigint"), true),
    column("type", Kind::Text, true),
    column("timestamp", Kind::Time, true),
    column("subscriber", Kind::Text, true),
    column("payload", Kind::Type("jsonb"), true),
    column("stream", Kind::Text, false),
    column("version", Kind::Type("bigint"), false),
    column("uid", Kind::Type("uuid"), false),
    column("metadata", Kind::Type("jsonb"), false),
    column("xid", Kind::Type("xid8"), false),
    column("amends", Kind::Type("bigint"), false),
];

const FIND: &str = "
select format('%I.%I', space.nspname, found.relname), its.attname::text,
       format_type(its.atttypid, null), kind.typcategory::text,
       case found.relkind when 'r' then '' when 'p' then '' when 'v' then 'a view'
            when 'm' then 'a materialized view' when 'f' then 'a foreign table' when 'S' then 'a sequence'
            when 'c' then 'a type' else 'an index' end
from pg_class found
join pg_namespace space on space.oid = found.relnamespace
left join pg_attribute its
  on its.attrelid = found.oid and its.attnum > 0 and not its.attisdropped
left join pg_type kind on kind.oid = its.atttypid
where found.oid = to_regclass('events')::oid
order by its.attnum";

/// A column of the existing table.
#[derive(Debug)]
struct Found {
    name: String,
    kind: String,
    category: String,
}

/// Checks that the table `events` exists and has the columns of a log.
pub async fn find(client: &Client) -> Result<(), NoLog> {
    let rows = client.query(FIND, &[]).await?;
    let Some(first) = rows.first() else { return Err(NoLog::Missing) };
    let (table, what): (String, String) = (first.try_get(0)?, first.try_get(4)?);
    if !what.is_empty() {
        return Err(NoLog::NoTable { table, what });
    }
    let mut columns = Vec::new();
    for row in &rows {
        // A table may have no columns.
        if let Some(name) = row.try_get(1)? {
            columns.push(Found { name, kind: row.try_get(2)?, category: row.try_get(3)? });
        }
    }
    judge(table, &columns)
}

fn judge(table: String, found: &[Found]) -> Result<(), NoLog> {
    let lacking: Vec<_> = COLUMNS.iter().filter(|ours| !is_there(ours, found)).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    if lacking.iter().any(|ours| ours.original) {
        let columns: Vec<_> =
            found.iter().map(|its| format!("{} {}", its.name, its.kind)).collect();
        let columns = if columns.is_empty() { "no columns".into() } else { columns.join(", ") };
        return Err(NoLog::Foreign { table, columns });
    }
    let missing: Vec<_> = lacking.iter().map(|ours| ours.name).collect();
    Err(NoLog::Behind { table, missing: missing.join(", ") })
}

fn is_there(ours: &Column, found: &[Found]) -> bool {
    found.iter().filter(|its| its.name == ours.name).any(|its| match ours.kind {
        Kind::Type(name) => its.kind == name,
        Kind::Text => its.category == "S",
        Kind::Time => its.category == "D",
    })
}
