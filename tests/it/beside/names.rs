//! No name of a user's column is taken for one of ours: the table gets a column for every name in our SQL.

use std::{collections::BTreeSet, fs, path::Path};

use crate::support::{life::Life, postgres::Database};

/// PostgreSQL allows 1600 columns, including dropped ones.
const MAX_COLUMNS: usize = 1500;

/// Collects every word in the string constants of the files in a folder and its subfolders.
fn words_of(folder: &Path, words: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            words_of(&path, words);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            // Every other piece between quotes is a string. A mistake only adds or loses some words.
            let strings = text.split('"').skip(1).step_by(2).chain(text.split('"').step_by(2));
            strings.filter(|text| is_sql(text)).for_each(|text| add_words(text, words));
        }
    }
}

fn is_sql(text: &str) -> bool {
    ["select ", "insert ", "update ", "delete ", "from ", " as "].iter().any(|it| text.contains(it))
}

fn add_words(text: &str, words: &mut BTreeSet<String>) {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
        let found = line.split(|c| !is_part(c)).filter(|word| {
            word.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') && word.len() < 40
        });
        words.extend(found.map(str::to_owned));
    }
}

/// Collects the words of our SQL files, without their comments.
fn words_of_sql(folder: &Path, words: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "sql") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.lines().map(|line| line.split("--").next().unwrap_or_default());
            code.for_each(|line| add_words(line, words));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_columns_may_have_any_name_of_our_queries() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut words = BTreeSet::new();
    words_of(&root.join("crates/store/src"), &mut words);
    words_of_sql(&root.join("migrations"), &mut words);
    for known in ["consumer", "found", "before", "item", "place", "pattern", "ord", "refused"] {
        assert!(words.contains(known), "{known} was not found in our SQL");
    }
    let database = Database::create().await;
    let client = database.connect().await;
    let columns = "select attname::text from pg_attribute where attrelid = 'events'::regclass";
    for row in client.query(columns, &[]).await.unwrap() {
        words.remove(row.get::<_, &str>(0));
    }
    assert!(words.len() < MAX_COLUMNS, "{} words are more than a table has columns", words.len());
    // The type fits nowhere, so taking such a column by mistake is an error.
    let add: Vec<_> = words.iter().map(|word| format!("add \"{word}\" bool")).collect();
    client.batch_execute(&format!("alter table events {}", add.join(", "))).await.unwrap();
    for table in ["events_pruned", "events_erased", "events_keep", "event_piper_pumps"] {
        let columns =
            format!("select attname::text from pg_attribute where attrelid = '{table}'::regclass");
        let own = client.query(&columns, &[]).await.unwrap();
        let own: BTreeSet<&str> = own.iter().map(|row| row.get(0)).collect();
        let add = words.iter().filter(|word| !own.contains(word.as_str()));
        let add: Vec<_> = add.map(|word| format!("add \"{word}\" bool")).collect();
        client.batch_execute(&format!("alter table {table} {}", add.join(", "))).await.unwrap();
    }
    Life { url: database.url(), client: database.connect().await }.lives().await;
}
