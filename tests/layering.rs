//! Refuses an upward import: data passes through the house one way (see `src/lib.rs`).

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Each module with its layer; none for those that stand beside them, and import what they
/// compose or describe.
const LAYERS: [(&str, Option<u8>); 16] = [
    ("cli", Some(8)),
    ("http", Some(7)),
    ("pump", Some(7)),
    ("gateway", Some(6)),
    ("live", Some(5)),
    ("tail", Some(4)),
    ("read", Some(3)),
    ("write", Some(3)),
    ("item", Some(2)),
    ("access", Some(2)),
    ("crash", None),
    ("metrics", None),
    ("nearest", None),
    ("progress", None),
    ("telemetry", None),
    ("web", None),
];

/// What the crates `core` and `store` show here: the ground that all layers stand on.
const GROUND: [&str; 10] = [
    "amendment",
    "backoff",
    "consumer",
    "cursor",
    "event",
    "order",
    "reader",
    "sse",
    "store",
    "tls",
];

/// The crate that runs a PostgreSQL. Only what composes the program knows it.
const EMBEDDED: &str = "embedded";

/// What `core` has no business with. Its dependencies leave out the rest.
const IMPURE: [&str; 3] = ["Instant::now", "SystemTime", "std::net"];

#[test]
fn nothing_imports_upwards_or_sideways_between_doors() {
    let mut wrong = Vec::new();
    for (path, module, code) in sources("src") {
        for imported in imports(&code) {
            if imported != module && !may_import(&module, &imported) {
                wrong.push(format!("{} imports {imported}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_decided_asks_no_clock_and_no_network() {
    let mut wrong = Vec::new();
    for (path, _, code) in sources("crates/core/src") {
        let impure = IMPURE.into_iter().filter(|it| code.contains(it));
        wrong.extend(impure.map(|it| format!("{} is not pure: {it}", path.display())));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_has_its_place() {
    for (path, module, _) in sources("src") {
        let known = LAYERS.iter().any(|(name, _)| *name == module);
        assert!(known || ["config", "lib", "main"].contains(&&*module), "{}", path.display());
    }
    let there: Vec<String> = sources("src").into_iter().map(|(_, module, _)| module).collect();
    for (name, _) in LAYERS {
        assert!(there.iter().any(|module| module == name), "there is no module {name}");
    }
}

fn may_import(module: &str, imported: &str) -> bool {
    match (module, imported) {
        ("main" | "lib" | "cli", _) => true,
        (_, "cli" | "config") => false,
        ("config", _) => true,
        (_, EMBEDDED) => false,
        (_, ground) if GROUND.contains(&ground) => true,
        _ => match (layer(module), layer(imported)) {
            (Some(from), Some(to)) => from > to,
            (Some(_), None) => true,
            (None, to) => to.is_none(),
        },
    }
}

fn layer(module: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == module)?.1
}

/// Every source file of a crate, the module that it belongs to, and its code: comments, which may
/// speak of anything, and the tests at its end are left out.
fn sources(folder: &str) -> Vec<(PathBuf, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files = Vec::new();
    collect(&root, &mut files);
    let read = |path: PathBuf| {
        let top = path.strip_prefix(&root).unwrap().iter().next().unwrap();
        let module = Path::new(top).file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let code = code.collect::<Vec<_>>().join("\n");
        (path, module, code)
    };
    files.into_iter().map(read).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|it| it == "rs") {
            files.push(path);
        }
    }
}

/// The modules that a file names: after `crate::`, and inside of `use crate::{...}`.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(heads_of(group)),
            None => found.push(word(rest)),
        }
    }
    found
}

/// The first word of each path directly inside of a group of imports.
fn heads_of(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut at_head) = (0, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_head = true,
            c if at_head && c.is_alphabetic() => {
                heads.push(word(&group[at..]));
                at_head = false;
            }
            _ => {}
        }
    }
    heads
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}
