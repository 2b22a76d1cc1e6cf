//! The texts of the queries on history.

use std::sync::LazyLock;

use super::columns::whole;
use crate::event_log::{DRAWN, delivered, delivered_small, measured};

/// The rows of these consumers in id order: for each consumer the next rows by its own index, and then the
/// first of all. Subscriber and id are compared as a row, which only this index can serve. By the id alone,
/// the planner would walk through all consumers' rows for those of a rare consumer.
pub(super) const ROWS: &str = concat!(
    "select page.id, page.xid, page.type, page.payload, page.amends, page.found
    from (select item.id, item.xid, item.type, item.payload, item.amends, ",
    measured!(),
    " from (select one.id, one.xid, one.type, one.payload, one.amends
               from unnest($1::text[]) asked(consumer), lateral (
                   select ",
    delivered!(),
    " from events log
                   where log.subscriber is not null
                     and (log.subscriber, log.id) > (asked.consumer, $2)
                     and (log.subscriber, log.id) <= (asked.consumer, $3)
                   order by log.subscriber, log.id limit $4
               ) one order by one.id limit $4) item
    ) page where page.before <= $5 order by page.id"
);

/// The same for rows that are expected to be small: measuring them would take PostgreSQL nearly as long as
/// reading them. A payload that is large after all is withheld (see `delivered_small`).
pub(super) const SMALL_ROWS: &str = concat!(
    "select one.id, one.xid, one.type, one.payload, one.amends
    from unnest($1::text[]) asked(consumer), lateral (
        select ",
    delivered_small!(),
    " from events log
        where log.subscriber is not null
          and (log.subscriber, log.id) > (asked.consumer, $2)
          and (log.subscriber, log.id) <= (asked.consumer, $3)
        order by log.subscriber, log.id limit $4
    ) one order by one.id limit $4"
);

/// The same for one consumer, the most common case. Nothing has to be merged, which saves PostgreSQL a fifth
/// of its time for a page.
pub(super) const SMALL_ROWS_OF_ONE: &str = concat!(
    "select ",
    delivered_small!(),
    " from events log
    where log.subscriber is not null
      and (log.subscriber, log.id) > ($1, $2) and (log.subscriber, log.id) <= ($1, $3)
    order by log.subscriber, log.id limit $4"
);

/// The newest rows up to an id, newest first.
pub(super) const NEWEST: &str = concat!(
    "select page.id, page.xid, page.type, page.payload, page.amends, page.subscriber, page.found
    from (select item.id, item.xid, item.type, item.payload, item.amends, item.subscriber,
                 count(*) over () as found,
                 sum(pg_column_size(item.payload)) over (order by item.id desc)
                     - pg_column_size(item.payload) as before
          from (select ",
    delivered!(),
    ", log.subscriber::text as subscriber
                from events log where log.id <= $1 order by log.id desc limit $2) item
    ) page where page.before <= $3 order by page.id desc"
);

/// The same for certain transactions only, each above its mark.
pub(super) const MARKED: &str = concat!(
    "select page.id, page.xid, page.type, page.payload, page.amends, page.found
    from (select item.id, item.xid, item.type, item.payload, item.amends, ",
    measured!(),
    " from (select one.id, one.xid, one.type, one.payload, one.amends
               from unnest($1::text[]) asked(consumer), lateral (
                   select ",
    delivered!(),
    " from events log join unnest($6::xid8[], $7::int8[]) mark(xid, upto)
                     on log.xid = mark.xid and log.id > mark.upto
                   where log.subscriber is not null
                     and (log.subscriber, log.id) > (asked.consumer, $2)
                     and (log.subscriber, log.id) <= (asked.consumer, $3)
                   order by log.subscriber, log.id limit $4
               ) one order by one.id limit $4) item
    ) page where page.before <= $5 order by page.id"
);

/// The same over a long [`Span`]: by the index on `xid` alone, because all consumers' rows may lie between
/// these ids, or those of a consumer that has most of them. All rows that are found are sorted for a page, so
/// nothing is returned if there are many: see `History::wrote_few`.
pub(super) const MARKED_FAR: &str = concat!(
    "select page.id, page.xid, page.type, page.payload, page.amends, page.found
    from (select item.id, item.xid, item.type, item.payload, item.amends, ",
    measured!(),
    " from (select late.id, late.xid, late.type, late.payload, late.amends
               from (select few.id, few.xid, few.type, few.payload, few.amends, few.subscriber,
                            count(*) over () as found
                     from (select ",
    delivered!(),
    ", log.subscriber::text as subscriber
                           from events log
                           where log.xid::text::int8 = any($8)
                             and log.id + 0 > $2 and log.id + 0 <= $3 limit 2001) few
               ) late join unnest($6::xid8[], $7::int8[]) mark(xid, upto)
                 on late.xid = mark.xid and late.id > mark.upto
               where late.found <= 2000 and late.subscriber = any($1)
               order by late.id limit $4) item
    ) page where page.before <= $5 order by page.id"
);

/// A record of more ids than were ever drawn is of another log, whose ids were restarted. The sequence is
/// read only if there is a record.
pub(super) static EVER_PRUNED: LazyLock<String> = LazyLock::new(|| {
    "select coalesce(max(pruned.upto), 0) from events_pruned pruned
     where pruned.upto <= coalesce((DRAWN), pruned.upto)"
        .replace("DRAWN", DRAWN)
});

pub(super) static PRUNED: LazyLock<String> = LazyLock::new(|| {
    "select coalesce(max(pruned.upto), 0) from events_pruned pruned
     where (pruned.subscriber = any($1) or pruned.subscriber is null)
       and pruned.upto <= coalesce((DRAWN), pruned.upto)"
        .replace("DRAWN", DRAWN)
});

pub(super) const EVENT: &str = concat!("select ", whole!(), " from events log where log.id = $1");

pub(super) const HAS_UID: &str = "select 1 from events log where log.uid = $1";

/// The amendments of these events behind a place, in the order in which they apply.
pub(super) const AMENDMENTS: &str = "
select log.amends::int8, log.id::int8, log.payload::text from events log
where log.amends = any($1) and (log.amends, log.id) > ($2, $3)
order by log.amends, log.id limit $4";
