//! How many rows to ask for, so that the server does not send rows that would be discarded.

use super::rows::{Page, PageSize};

/// Adapts the size of pages to rows of unknown size: few rows at first, more while all of them fit, and as
/// many as fit once some did not.
///
/// PostgreSQL knows the stored size of a compressed payload without reading it, but not its actual size.
/// Where rows are a hundred times larger than they are stored, it would read and send a hundred pages for
/// each one that is used.
#[derive(Clone, Copy, Debug)]
pub struct Paging {
    most: PageSize,
    rows: i64,
    /// The number of stored bytes to ask for.
    stored: i64,
    /// Whether the rows of the last page were small, and all that were asked for fitted.
    small: bool,
}

impl Paging {
    /// The number of rows of the first page.
    const FIRST: i64 = 100;

    /// The part of the bytes that the first page asks for, as they are stored. Compressed payloads can be a
    /// hundred times larger.
    const FIRST_PART: i64 = 8;

    /// The greatest average size of small rows, in bytes.
    const SMALL: i64 = 1 << 10;

    /// Pages of at most this size.
    #[must_use]
    pub fn new(most: PageSize) -> Self {
        let (rows, stored) = (Self::FIRST.min(most.rows), most.bytes / Self::FIRST_PART);
        Self { most, rows, stored, small: false }
    }

    /// The size of the next page.
    #[must_use]
    pub fn size(&self) -> PageSize {
        PageSize { rows: self.rows, ..self.most }
    }

    /// How many bytes of the next page, as they are stored, may come before its last row.
    #[must_use]
    pub fn stored_bytes(&self) -> i64 {
        self.stored
    }

    /// Whether the next rows are expected to be small.
    #[must_use]
    pub fn are_small(&self) -> bool {
        self.small
    }

    /// Learns from the last page.
    pub fn learn(&mut self, page: &Page) {
        self.learn_of(page.rows.len(), page.bytes(), page.last);
    }

    /// Learns from a last page of this many rows and bytes.
    pub fn learn_of(&mut self, rows: usize, bytes: usize, last: bool) {
        let (came, bytes) = (size(rows), size(bytes));
        if last {
            // A page without rows says nothing about their size.
            self.small = if came == 0 { self.small } else { bytes <= came * Self::SMALL };
            return;
        }
        self.small = came == self.rows && bytes <= self.most.bytes;
        let (has_room, is_first) = (bytes <= self.most.bytes / 2, self.stored < self.most.bytes);
        self.stored = self.most.bytes;
        match (came < self.rows, has_room) {
            // The first page asks for fewer bytes than fit.
            (true, true) if is_first => {}
            (true, _) => self.rows = came.max(1),
            (false, true) => self.rows = self.rows.saturating_mul(2).min(self.most.rows),
            (false, false) => {}
        }
    }
}

fn size(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
