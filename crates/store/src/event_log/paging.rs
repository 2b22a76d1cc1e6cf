//! How many rows to ask for, so that the server does not send what would be let go of.

use super::rows::{Page, PageSize};

/// Pages of rows, of which nobody knows how large they are: it asks for few at first, for more while
/// all of them fit, and for as many as fit once some did not.
///
/// PostgreSQL knows without reading it how much room a payload takes that is stored compressed, but
/// not how large it is. Where the rows are a hundred times as large, it would read and send a hundred
/// pages for each one that is taken.
#[derive(Clone, Copy, Debug)]
pub struct Paging {
    most: PageSize,
    rows: i64,
    /// So many stored bytes are asked for.
    stored: i64,
    /// The rows of the last page were, and all that were asked for fitted.
    small: bool,
}

impl Paging {
    /// So many rows are asked for first.
    const FIRST: i64 = 100;

    /// And this part of the bytes, as they are stored. Compressed payloads can be a hundred times as large.
    const FIRST_PART: i64 = 8;

    /// Rows of this many bytes are small.
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

    /// How many bytes of the next page, as they are stored, may stand before its last row.
    #[must_use]
    pub fn stored_bytes(&self) -> i64 {
        self.stored
    }

    /// Whether the next rows will be small, as far as one can know.
    #[must_use]
    pub fn are_small(&self) -> bool {
        self.small
    }

    /// Takes note of what came of the last page.
    pub fn learn(&mut self, page: &Page) {
        self.learn_of(page.rows.len(), page.bytes(), page.last);
    }

    /// The same of a page of so many rows, and so many bytes.
    pub fn learn_of(&mut self, rows: usize, bytes: usize, last: bool) {
        let (came, bytes) = (size(rows), size(bytes));
        if last {
            // Without rows it says nothing about their size.
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
