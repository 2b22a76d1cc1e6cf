//! Where events come from: arguments, or lines on standard input.

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, BufReader, Stdin};

/// A line that is not empty.
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: u64,
    pub(super) text: String,
}

/// See the module.
pub(super) struct Lines {
    from: From,
    number: u64,
    read: u64,
    length: Option<u64>,
}

enum From {
    Arguments(std::vec::IntoIter<String>),
    Input(BufReader<Stdin>),
}

impl Lines {
    pub(super) fn open(arguments: Vec<String>) -> Self {
        let (from, length) = if arguments.is_empty() {
            (From::Input(BufReader::new(tokio::io::stdin())), length_of_input())
        } else {
            (From::Arguments(arguments.into_iter()), None)
        };
        Self { from, number: 0, read: 0, length }
    }

    /// How many bytes there are in all, where that is known.
    pub(super) fn length(&self) -> Option<u64> {
        self.length
    }

    /// How many bytes were read.
    pub(super) fn read(&self) -> u64 {
        self.read
    }

    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Line>> {
        loop {
            let mut text = String::new();
            match &mut self.from {
                From::Arguments(rest) => match rest.next() {
                    Some(argument) => text = argument,
                    None => return Ok(None),
                },
                From::Input(input) => {
                    if input.read_line(&mut text).await.context("reading standard input")? == 0 {
                        return Ok(None);
                    }
                }
            }
            self.number += 1;
            self.read += text.len() as u64;
            if !text.trim().is_empty() {
                return Ok(Some(Line { number: self.number, text: text.trim().to_owned() }));
            }
        }
    }
}

/// The length of a file on standard input; of a pipe it is not known.
fn length_of_input() -> Option<u64> {
    let file = std::fs::File::open("/dev/stdin").ok()?.metadata().ok()?;
    file.is_file().then_some(file.len())
}
