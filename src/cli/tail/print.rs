//! Prints events for people or as JSON lines, and notes on standard error.

use std::{
    borrow::Cow,
    env,
    fmt::Write as _,
    io::{self, BufWriter, IsTerminal, Stdout, Write, stderr, stdout},
};

use serde::Serialize;
use serde_json::value::RawValue;

use crate::sse::Event;

/// Prints events and notes.
pub(super) struct Printer {
    out: BufWriter<Stdout>,
    style: Style,
    notes_coloured: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Json,
    Plain,
    Coloured,
}

impl Printer {
    pub(super) fn new(json: bool) -> Self {
        // Any value that is not empty disables colours: https://no-color.org.
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let style = match json {
            true => Style::Json,
            false if stdout().is_terminal() && !refused => Style::Coloured,
            false => Style::Plain,
        };
        let notes_coloured = stderr().is_terminal() && !refused;
        Self { out: BufWriter::new(stdout()), style, notes_coloured }
    }

    /// Whether the output is JSON, for programs.
    pub(super) fn is_for_programs(&self) -> bool {
        self.style == Style::Json
    }

    pub(super) fn event(&mut self, event: &Event) -> io::Result<()> {
        self.out.write_all(line(self.style, event).as_bytes())
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Prints a note about the stream. Errors are ignored.
    pub(super) fn note(&self, text: &str) {
        let (on, off) = if self.notes_coloured { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        let _ = writeln!(stderr(), "{on}event-piper: {}{off}", escape_control(text));
    }

    /// Prints a warning about the stream.
    pub(super) fn warn(&self, text: &str) {
        let (on, off) = if self.notes_coloured { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        let _ = writeln!(stderr(), "{on}event-piper: {}{off}", escape_control(text));
    }
}

fn line(style: Style, event: &Event) -> String {
    let Event { id, kind, data } = event;
    match style {
        Style::Json => json(event),
        Style::Plain => {
            format!("{}  {}  {}\n", escape_control(id), escape_control(kind), escape_control(data))
        }
        Style::Coloured => {
            let (id, kind, data) = (escape_control(id), escape_control(kind), escape_control(data));
            format!("\x1b[2m{id}\x1b[0m  \x1b[1;36m{kind}\x1b[0m  {data}\n")
        }
    }
}

/// A JSON line. The data is passed unchanged, with every digit; data that is not JSON becomes a string.
fn json(Event { id, kind, data }: &Event) -> String {
    #[derive(Serialize)]
    struct Line<'a, D> {
        id: &'a str,
        r#type: &'a str,
        data: D,
    }
    // In JSON, a line break can only be white space between tokens.
    let one_line = data.replace(['\n', '\r'], " ");
    let line = match serde_json::from_str::<&RawValue>(&one_line) {
        Ok(data) => serde_json::to_string(&Line { id, r#type: kind, data }),
        Err(_) => serde_json::to_string(&Line { id, r#type: kind, data }),
    };
    line.expect("text is JSON") + "\n"
}

/// Replaces control characters, which could control the terminal.
pub(super) fn escape_control(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let tamed = text.chars().fold(String::with_capacity(text.len() + 16), |mut out, c| {
        let done =
            if c.is_control() { write!(out, "{}", c.escape_default()) } else { out.write_char(c) };
        done.expect("a String takes all");
        out
    });
    tamed.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(style: Style, data: &str, expected: &str) {
        let event = Event { id: "7~9:3".into(), kind: "order placed".into(), data: data.into() };
        assert_eq!(line(style, &event), format!("{expected}\n"));
    }

    #[test]
    fn json_keeps_every_digit() {
        let data = r#"{"n":12345678901234567890.10,"t":"é\n"}"#;
        let expected = format!(r#"{{"id":"7~9:3","type":"order placed","data":{data}}}"#);
        check(Style::Json, data, &expected);
        check(Style::Json, "[1,\n2]", r#"{"id":"7~9:3","type":"order placed","data":[1, 2]}"#);
        check(Style::Json, "a \"b\"", r#"{"id":"7~9:3","type":"order placed","data":"a \"b\""}"#);
    }

    #[test]
    fn control_characters_are_replaced() {
        check(Style::Plain, r#"{"a":"é"}"#, r#"7~9:3  order placed  {"a":"é"}"#);
        check(Style::Plain, "\u{1b}[2J\u{9b}2J", r"7~9:3  order placed  \u{1b}[2J\u{9b}2J");
        let coloured = "\u{1b}[2m7~9:3\u{1b}[0m  \u{1b}[1;36morder placed\u{1b}[0m  1";
        check(Style::Coloured, "1", coloured);
    }
}
