//! The results of a run: tables as Markdown, and the same as JSON.

use std::{fmt, fs, path::PathBuf};

use serde::Serialize;

/// The result of one figure.
#[derive(Serialize)]
pub(crate) struct Table {
    /// The name of the table and of its files.
    pub(crate) name: &'static str,
    pub(crate) title: String,
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
    pub(crate) notes: Vec<String>,
}

impl Table {
    pub(crate) fn new(name: &'static str, title: impl Into<String>, columns: &[&str]) -> Self {
        let columns = columns.iter().map(|&column| column.to_owned()).collect();
        Self { name, title: title.into(), columns, rows: Vec::new(), notes: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: &[&dyn fmt::Display]) {
        self.rows.push(cells.iter().map(ToString::to_string).collect());
        println!("  {}", self.rows[self.rows.len() - 1].join(" | "));
    }

    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### {}\n", self.title)?;
        writeln!(f, "| {} |", self.columns.join(" | "))?;
        writeln!(f, "|{}", "---|".repeat(self.columns.len()))?;
        for row in &self.rows {
            writeln!(f, "| {} |", row.join(" | "))?;
        }
        if !self.notes.is_empty() {
            writeln!(f)?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "- {note}"))
    }
}

/// The folder for tables. A table stays until the same figure is measured again.
pub(crate) fn folder() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).map(PathBuf::from).unwrap_or_default();
    let folder = target.join("bench");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Writes the table as Markdown and JSON, and prints it.
pub(crate) fn publish(table: &Table) -> anyhow::Result<()> {
    let folder = folder()?;
    println!("\n{table}");
    fs::write(folder.join(format!("{}.md", table.name)), table.to_string())?;
    fs::write(folder.join(format!("{}.json", table.name)), serde_json::to_vec_pretty(table)?)?;
    Ok(())
}

/// Combines all tables that exist into one file.
pub(crate) fn combine(head: &str, names: &[&str]) -> anyhow::Result<PathBuf> {
    let folder = folder()?;
    let tables =
        names.iter().filter_map(|name| fs::read_to_string(folder.join(format!("{name}.md"))).ok());
    let text: Vec<String> = std::iter::once(head.to_owned()).chain(tables).collect();
    let path = folder.join("report.md");
    fs::write(&path, text.join("\n"))?;
    Ok(path)
}

/// Several measurements of the same thing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn add(&mut self, sample: f64) {
        self.0.push(sample);
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(samples: I) -> Self {
        Self(samples.into_iter().collect())
    }
}

/// Shows the median, with minimum and maximum in brackets.
impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else {
            return f.write_str("-");
        };
        let median = median(&sorted);
        let digits = if median.abs() >= 100.0 {
            0
        } else if median.abs() >= 10.0 {
            1
        } else {
            2
        };
        if sorted.len() == 1 {
            return write!(f, "{median:.digits$}");
        }
        write!(f, "{median:.digits$} ({least:.digits$}–{most:.digits$})")
    }
}

/// The median. For an even number of samples, it is the mean of the two in the middle.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    } else {
        sorted[middle]
    }
}
