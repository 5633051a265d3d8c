//! Checks on the sources themselves: who may use whom, what `domain` may not touch, how long a file may get.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// What each folder of `src/` may use of the crate, itself aside.
const MAY_USE: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("error.rs", &["domain"]),
    ("probe", &["domain", "error"]),
    ("wandb", &["domain", "error"]),
    ("wire", &["domain", "error"]),
    ("supervisor", &["domain", "error", "probe", "wandb", "wire"]),
    ("cluster", &["domain", "error", "supervisor", "wire"]),
    ("tui", &["domain", "error", "wire"]),
    ("cli", &["cluster", "domain", "error", "probe", "supervisor", "tui", "wandb", "wire"]),
    ("lib.rs", &["cli", "cluster", "domain", "error", "probe", "supervisor", "tui", "wandb", "wire"]),
    ("main.rs", &["cli"]),
];

/// Paths that would bring IO, clock, environment, threads or randomness into `domain`.
const NOT_IN_DOMAIN: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "jiff::Timestamp::now",
    "jiff::Zoned::now",
    "rand",
    "rustix",
    "tokio",
    "tracing",
];

/// More lines than this in a Rust file need a reason in [`LONG`].
const MOST_LINES: usize = 600;

/// Files that may be longer, each with the reason.
const LONG: &[(&str, &str)] =
    &[("tests/agent.rs", "one story after the other about one program, sharing its harness")];

#[test]
fn folders_use_only_what_they_may() {
    let mut wrong = Vec::new();
    for file in rust_files("src") {
        let (name, text) = (relative(&file), read(&file));
        let home = name.split('/').nth(1).unwrap();
        let allowed = MAY_USE.iter().find(|(folder, _)| *folder == home).map(|(_, allowed)| *allowed);
        let allowed = allowed.unwrap_or_else(|| panic!("{name}: say in MAY_USE what {home} may use"));
        for used in crate_modules(&text) {
            if used != home && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{name} uses crate::{used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "imports against the direction:\n{}", wrong.join("\n"));
}

#[test]
fn domain_touches_nothing_outside() {
    let mut wrong = Vec::new();
    for file in rust_files("src/domain").into_iter().filter(|file| !is_test(file)) {
        let text = read(&file);
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        for path in paths(code) {
            let under = |bad: &&&str| path == **bad || path.starts_with(&format!("{bad}::"));
            if let Some(bad) = NOT_IN_DOMAIN.iter().find(under) {
                wrong.push(format!("{} uses {bad}", relative(&file)));
            }
        }
    }
    assert!(wrong.is_empty(), "domain is pure:\n{}", wrong.join("\n"));
}

#[test]
fn files_stay_short() {
    let files: Vec<_> = rust_files("src").into_iter().chain(rust_files("tests")).collect();
    let mut wrong = Vec::new();
    for file in &files {
        let (name, lines) = (relative(file), read(file).lines().count());
        let excused = LONG.iter().any(|(long, _)| *long == name);
        match lines > MOST_LINES {
            true if !excused => {
                wrong.push(format!("{name} has {lines} lines; split it, or say in LONG why not"));
            }
            false if excused => wrong.push(format!("{name} has {lines} lines: take it out of LONG")),
            _ => {}
        }
    }
    let gone = LONG.iter().filter(|(long, _)| !files.iter().any(|file| relative(file) == *long));
    wrong.extend(gone.map(|(long, _)| format!("{long} is gone: take it out of LONG")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A made-up `/home/NAME` is fine in a test; the real folders of whoever runs this are not.
#[test]
fn no_path_of_a_developers_machine() {
    let root = env!("CARGO_MANIFEST_DIR").to_owned();
    let home = std::env::var("HOME").unwrap_or_default();
    // One folder below the root, such as /root or /src, could be anything.
    let own = [root, home].into_iter().filter(|path| path.matches('/').count() > 1);
    let bad: Vec<_> =
        own.chain([concat!("/wor", "k/").to_owned(), concat!("../sha", "red").to_owned()]).collect();
    let mut wrong = Vec::new();
    for file in
        files(&["src", "tests", "themes", "screenshots", ".ci"], |_| true).into_iter().chain(top_files())
    {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        for (number, line) in text.lines().enumerate() {
            if let Some(bad) = bad.iter().find(|bad| line.contains(bad.as_str())) {
                wrong.push(format!("{}:{} names {bad}", relative(&file), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_theme_is_embedded() {
    let code = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tui/theme/store.rs"));
    for theme in files(&["themes"], |path| path.extension().is_some_and(|ext| ext == "toml")) {
        let name = theme.file_name().unwrap().to_str().unwrap();
        assert!(
            code.contains(&format!("themes/{name}\")")),
            "themes/{name} is not in src/tui/theme/store.rs"
        );
    }
}

#[test]
fn every_picture_of_the_readme_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = read(&root.join("README.md"));
    let named: BTreeSet<_> =
        readme.split("screenshots/").skip(1).filter_map(|rest| rest.split(".svg").next()).collect();
    let named: Vec<_> = named.into_iter().filter(|name| !name.contains([' ', '\n'])).collect();
    assert!(!named.is_empty(), "the README shows no screenshot");
    for name in named {
        assert!(root.join(format!("screenshots/{name}.svg")).is_file(), "screenshots/{name}.svg is missing");
    }
}

/// The modules of the crate that a source names: `crate::x::…`, and `x` in `use crate::{x::…, …}`.
fn crate_modules(text: &str) -> BTreeSet<String> {
    let of_crate = |path: String| Some(path.strip_prefix("crate::")?.split("::").next()?.to_owned());
    paths(text).into_iter().filter_map(of_crate).filter(|name| !name.is_empty()).collect()
}

/// All paths in a source, comments and strings left out; braces of `use` are multiplied out.
fn paths(text: &str) -> Vec<String> {
    let code = without_comments(text);
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut found = Vec::new();
    // Path prefixes of the open braces: `None` for a brace that no path leads to.
    let mut prefixes: Vec<Option<String>> = Vec::new();
    let mut chars = code.char_indices().peekable();
    while let Some((start, c)) = chars.next() {
        if is_part(c) {
            let mut end = start + c.len_utf8();
            while let Some((at, c)) = chars.next_if(|(_, c)| is_part(*c)) {
                end = at + c.len_utf8();
            }
            let around: String = prefixes.iter().flatten().cloned().collect();
            let path = format!("{around}{}", &code[start..end]);
            if path.ends_with("::") && chars.peek().is_some_and(|(_, c)| *c == '{') {
                chars.next();
                prefixes.push(Some(code[start..end].to_owned()));
            } else {
                found.push(path);
            }
        } else if c == '{' {
            prefixes.push(None);
        } else if c == '}' {
            prefixes.pop();
        }
    }
    found
}

/// Line comments (docs too) go, and what stands in double quotes. Good enough for rustfmt's output.
fn without_comments(text: &str) -> String {
    let mut code = String::new();
    for line in text.lines() {
        let line = line.split("//").next().unwrap();
        let outside = line.split('"').step_by(2);
        code.extend(outside.flat_map(|part| [part, " "]));
        code.push('\n');
    }
    // Braces in character literals are no braces.
    code.replace("'{'", " ").replace("'}'", " ")
}

#[test]
fn paths_are_found() {
    let text = "use crate::{\n    domain::{id::ProcId, time},\n    error::Error, // crate::tui\n};\nfn x() { crate::probe::proc::pids(\"crate::cli\") }";
    let found: Vec<_> = crate_modules(text).into_iter().collect();
    assert_eq!(found, ["domain", "error", "probe"]);
    assert!(paths("use std::{fmt, time::{Duration, Instant}};").contains(&"std::time::Instant".to_owned()));
}

fn is_test(file: &Path) -> bool {
    let name = relative(file);
    name.contains("/tests/") || name.ends_with("tests.rs")
}

fn rust_files(folder: &str) -> Vec<PathBuf> {
    let found = files(&[folder], |path| path.extension().is_some_and(|ext| ext == "rs"));
    assert!(!found.is_empty(), "no Rust file in {folder}");
    found
}

fn files(folders: &[&str], wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut left: Vec<_> =
        folders.iter().map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).collect();
    let mut found = Vec::new();
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if wanted(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn top_files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    ["Cargo.toml", "README.md", "CHANGELOG.md"].map(|name| root.join(name)).into()
}

fn relative(file: &Path) -> String {
    file.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_str().unwrap().to_owned()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}
