//! Refuses an upward import.
