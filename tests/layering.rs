//! The rules for imports and for the length of files (see `ARCHITECTURE.md`):
//!
//! - a module imports only from the layers below its own;
//! - `core` has no clock and no network;
//! - no files import each other in a circle;
//! - no file has more than [`MAX_LINES`] lines of code.

use std::{
    collections::{BTreeMap, BTreeSet},
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

/// Names that `src/lib.rs` exports from the crates `core` and `store`. Every layer may import them.
const GROUND: [&str; 11] = [
    "amendment",
    "backoff",
    "consumer",
    "cursor",
    "event",
    "order",
    "reader",
    "snapshot",
    "sse",
    "store",
    "tls",
];

/// The crate that runs a PostgreSQL. Only `cli` and `config` may import it.
const EMBEDDED: &str = "embedded";

/// What `core` must not use. Its dependencies rule out the rest.
const IMPURE: [&str; 3] = ["Instant::now", "SystemTime", "std::net"];

/// The crates of the workspace that the program consists of.
const CRATES: [&str; 4] =
    ["src", "crates/core/src", "crates/store/src", "crates/embedded-postgres/src"];

/// A module at the end of a file that is compiled for tests only does not count.
const MAX_LINES: usize = 450;

#[test]
fn a_module_imports_only_from_lower_layers() {
    let mut wrong = Vec::new();
    for file in sources("src") {
        let module = file.top_module();
        for import in imports(&file.code) {
            let Some(imported) = import.strip_prefix("crate::") else { continue };
            let imported = imported.split("::").next().unwrap_or_default();
            if imported != module && !may_import(module, imported) {
                wrong.push(format!("{} imports {imported}", file.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn core_uses_no_clock_and_no_network() {
    let mut wrong = Vec::new();
    for file in sources("crates/core/src") {
        let impure = IMPURE.into_iter().filter(|it| file.code.contains(it));
        wrong.extend(impure.map(|it| format!("{} uses {it}", file.path)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_has_a_layer_or_stands_beside_them() {
    let sources = sources("src");
    let modules: BTreeSet<_> = sources.iter().map(Source::top_module).collect();
    let listed = LAYERS.iter().map(|(name, _)| *name).chain(["config", "lib", "main"]);
    assert_eq!(modules, listed.collect());
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut wrong = Vec::new();
    for folder in CRATES {
        let files = sources(folder);
        wrong.extend(circles(&graph(&files)).into_iter().map(|circle| circle.join(", ")));
    }
    let advice = "move what they share into a file of its own";
    assert!(wrong.is_empty(), "files import each other: {advice}\n{}", wrong.join("\n"));
}

#[test]
fn no_file_is_too_long() {
    let mut wrong = Vec::new();
    for folder in CRATES.into_iter().chain(["tests", "bench/src", "examples"]) {
        for path in rust_files(folder) {
            let text = fs::read_to_string(root().join(&path)).unwrap();
            let lines = without_tests(&text).0.lines().count();
            if lines > MAX_LINES {
                wrong.push(format!("{path}: {lines} lines"));
            }
        }
    }
    assert!(wrong.is_empty(), "at most {MAX_LINES} lines of code:\n{}", wrong.join("\n"));
}

#[test]
fn circles_are_found_through_every_kind_of_import() {
    let file = |path: &str, module: &[&str], code: &str| Source {
        path: path.to_owned(),
        module: module.iter().map(|&name| name.to_owned()).collect(),
        code: code.to_owned(),
    };
    let files = [
        file("lib", &[], "pub mod a; pub use self::a::c::C;"),
        file("a", &["a"], "mod b;\nmod c;\nfn f() { b::f() }"),
        file("b", &["a", "b"], "pub(in crate::d) use super::{self, c::{C, D}};"),
        file("c", &["a", "c"], "use crate::{d::{self, e::{E, F as G}}, h};"),
        file("d", &["d"], "mod e;"),
        file("e", &["d", "e"], "use super::super::a::c;"),
    ];
    let graph = graph(&files);
    let edges: Vec<_> = graph.iter().map(|(from, to)| format!("{from}: {}", join(to))).collect();
    assert_eq!(edges, ["a: b", "b: a c", "c: d e lib", "d: ", "e: c", "lib: c"]);
    assert_eq!(circles(&graph), [vec!["a", "b"], vec!["c", "e", "lib"]]);
}

fn join(paths: &BTreeSet<&str>) -> String {
    paths.iter().copied().collect::<Vec<_>>().join(" ")
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

/// A source file, without its comments and without what is compiled for tests only.
struct Source {
    /// Relative to the repository.
    path: String,
    /// `["access", "keys"]` for `crate::access::keys`, empty for `lib.rs` and `main.rs`.
    module: Vec<String>,
    code: String,
}

impl Source {
    /// The module of the first level that the file belongs to, or `lib` or `main`.
    fn top_module(&self) -> &str {
        match self.module.first() {
            Some(module) => module,
            None if self.path.ends_with("main.rs") => "main",
            None => "lib",
        }
    }
}

/// The source files of a crate, without files that are compiled for tests only.
fn sources(folder: &str) -> Vec<Source> {
    let (mut sources, mut tests) = (Vec::new(), BTreeSet::new());
    for path in rust_files(folder) {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        let relative = Path::new(path.strip_prefix(folder).unwrap().trim_start_matches('/'));
        let mut module: Vec<String> =
            relative.with_extension("").iter().map(|it| it.to_str().unwrap().to_owned()).collect();
        if ["lib.rs", "main.rs"].contains(&relative.to_str().unwrap()) {
            module.clear();
        }
        let (code, test_modules) = without_tests(&text);
        tests.extend(test_modules.into_iter().map(|name| [&module[..], &[name]].concat()));
        let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let code = code.collect::<Vec<_>>().join("\n");
        sources.push(Source { path, module, code });
    }
    sources.retain(|source| !tests.contains(&source.module));
    sources
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The paths of all Rust files below a folder, relative to the repository, in order.
fn rust_files(folder: &str) -> Vec<String> {
    let mut files = Vec::new();
    collect(&root().join(folder), &mut files);
    let relative = |path: PathBuf| path.strip_prefix(root()).unwrap().display().to_string();
    let mut files: Vec<_> = files.into_iter().map(relative).collect();
    files.sort();
    files
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

/// The text before the first module for tests, and the names of such modules.
fn without_tests(text: &str) -> (&str, Vec<String>) {
    let mut modules = text.match_indices("#[cfg(test)]\n").filter_map(|(at, attribute)| {
        let line = text[at + attribute.len()..].lines().next()?;
        let (visibility, name) = line.split_once("mod ")?;
        (visibility.is_empty() || visibility.starts_with("pub")).then(|| (at, word(name)))
    });
    match modules.next() {
        Some((end, first)) => {
            (&text[..end], [first].into_iter().chain(modules.map(|it| it.1)).collect())
        }
        None => (text, Vec::new()),
    }
}

/// Which file imports from which.
fn graph<'a>(files: &'a [Source]) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    // `main.rs` imports the library, and nothing imports `main.rs`.
    let files = || files.iter().filter(|file| file.top_module() != "main");
    let by_module: BTreeMap<_, _> = files().map(|file| (&file.module[..], &*file.path)).collect();
    let target = |file: &Source, import: &str| {
        let mut module = Vec::new();
        for (at, name) in import.split("::").enumerate() {
            match name {
                "crate" => module.clear(),
                // A path that begins with `super` or `self` is relative to the file's module.
                "super" | "self" if at == 0 => {
                    let keep = file.module.len() - usize::from(name == "super");
                    module = file.module[..keep].to_vec();
                }
                "super" => drop(module.pop()),
                "self" => {}
                name => module.push(name.to_owned()),
            }
        }
        // The path goes on behind its last module, with an item of that.
        while !by_module.contains_key(&module[..]) {
            module.pop();
        }
        by_module[&module[..]]
    };
    let edges = |file: &'a Source| {
        let mut targets: BTreeSet<_> =
            imports(&file.code).iter().map(|import| target(file, import)).collect();
        targets.remove(&*file.path);
        (&*file.path, targets)
    };
    files().map(edges).collect()
}

/// Groups of files that can all be reached from each other.
fn circles<'a>(graph: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Vec<Vec<&'a str>> {
    let reached: BTreeMap<_, _> = graph.keys().map(|file| (*file, reach(graph, file))).collect();
    let circle = |(file, reached_from_it): (&&str, &BTreeSet<&'a str>)| {
        let mutual = reached_from_it.iter().filter(|other| reached[**other].contains(file));
        mutual.copied().collect::<Vec<_>>()
    };
    let circles: BTreeSet<_> = reached.iter().map(circle).collect();
    circles.into_iter().filter(|circle| !circle.is_empty()).collect()
}

/// The files that a file imports from, directly or through others.
fn reach<'a>(graph: &BTreeMap<&'a str, BTreeSet<&'a str>>, from: &'a str) -> BTreeSet<&'a str> {
    let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(file) = next.pop() {
        next.extend(graph[file].iter().filter(|to| reached.insert(**to)));
    }
    reached
}

/// The paths that a file imports or uses, each beginning with `crate`, `super` or `self`: those that
/// are written so, and those that begin with a child module.
fn imports(code: &str) -> Vec<String> {
    let code = code.replace("pub(in crate", "pub(in ");
    let mut found = Vec::new();
    let children = code.lines().filter_map(|line| {
        let (_, name) = line.trim_end_matches(';').rsplit_once("mod ")?;
        (line.ends_with(';') && name == word(name)).then(|| name.to_owned())
    });
    for child in children {
        found.extend(starts_of(&code, &child).map(|_| format!("self::{child}")));
    }
    for start in ["crate", "super", "self"] {
        for at in starts_of(&code, start) {
            expand(start, &code[at + start.len() + "::".len()..], &mut found);
        }
    }
    found
}

/// Where a path begins with this name.
fn starts_of<'a>(code: &'a str, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(name).map(|(at, _)| at).filter(move |at| {
        let before = code[..*at].chars().next_back();
        let inside = before.is_some_and(|c| c.is_alphanumeric() || "_:$".contains(c));
        !inside && code[at + name.len()..].starts_with("::")
    })
}

/// Adds what `rest` has behind `prefix::`: one path, or a path for each member of a group.
fn expand(prefix: &str, rest: &str, found: &mut Vec<String>) {
    if let Some(group) = rest.strip_prefix('{') {
        for member in members(group) {
            expand(prefix, member, found);
        }
        return;
    }
    let name = word(rest);
    let path = format!("{prefix}::{name}");
    match rest[name.len()..].strip_prefix("::") {
        Some(rest) if !name.is_empty() => expand(&path, rest, found),
        _ => found.push(path),
    }
}

/// The members of a group that ends with the first brace that is not opened in it.
fn members(group: &str) -> Vec<&str> {
    let (mut depth, mut begin, mut members) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' | ',' if depth == 0 => {
                members.push(group[begin..at].trim());
                begin = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    members.retain(|member| !member.is_empty());
    members
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}
