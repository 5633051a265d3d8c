//! Names of hosts: plain lists, Slurm's compressed ones, files of hosts, and those that NCCL's RAS names.
//!
//! A name ends up in the command line of `ssh`, `srun` or `kubectl`, and some come from files and sockets of others:
//! [`check`] holds for each of them. Every function gives a host once, in the order in which it was first named.

use core::net::Ipv6Addr;
use std::{collections::BTreeSet, ops::RangeInclusive};

use super::ras::Ras;

/// Most hosts in one list: what Slurm allows in a job, too.
pub const MAX_HOSTS: u64 = 65_536;
/// Longest name with its user, in bytes; that of DNS.
const MAX_NAME: usize = 253;
/// Most digits of a number in brackets.
const MAX_DIGITS: usize = 18;

/// The hosts of a list: `n01,n02`, `n[01-03,07]`, `rack[0-1]n[0-7]-ib`, `root@gpu-[a,b]`, `::1` or `[::1]`.
///
/// Commas and blanks separate. Brackets are multiplied out as `scontrol show hostnames` does it, the last bracket first;
/// a number in them is as wide as the first one of its range. Brackets around an IPv6 address are taken off.
///
/// # Errors
/// What is wrong, and at which column: `column 4: …`.
pub fn expand(list: &str) -> Result<Vec<String>, String> {
    let entries = entries(list).map_err(|mistake| mistake.told(list))?;
    let mut hosts = Hosts::default();
    if entries.iter().map(Entry::count).fold(0, u64::saturating_add) > MAX_HOSTS {
        return Err(format!("it names more than {MAX_HOSTS} hosts"));
    }
    for entry in &entries {
        if entry.longest() > MAX_NAME {
            return Err(Mistake { at: entry.at, text: "the name is too long".into() }.told(list));
        }
        for name in entry.names() {
            check(&name).map_err(|text| Mistake { at: entry.at, text }.told(list))?;
            hosts.add(name);
        }
    }
    if hosts.list.is_empty() { Err("it names no host".into()) } else { Ok(hosts.list) }
}

/// The hosts of a file with one on a line. What follows a name may be a comment (`# …`), `:8` as MPICH has it, or
/// `slots=8` as Open MPI and DeepSpeed have it, and is not used. A line may name several as in [`expand`].
///
/// # Errors
/// What is wrong, and in which line.
pub fn hostfile(text: &str) -> Result<Vec<String>, String> {
    let mut hosts = Hosts::default();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(word) = words.next() else { continue };
        let wrong = |text: String| format!("line {}: {text}", number + 1);
        if let Some(odd) = words.find(|word| !word.contains('=')) {
            return Err(wrong(format!(
                "{odd:?} stands behind the host; only KEY=VALUE may, such as slots=8"
            )));
        }
        for name in expand(without_slots(word)).map_err(wrong)? {
            hosts.add(name);
        }
        if hosts.list.len() as u64 > MAX_HOSTS {
            return Err(wrong(format!("the file names more than {MAX_HOSTS} hosts")));
        }
    }
    if hosts.list.is_empty() { Err("it names no host".into()) } else { Ok(hosts.list) }
}

/// The hosts that RAS names, those that do not answer too; by rank in the largest communicator, then the others.
///
/// # Errors
/// A name is none, or there is no communicator yet.
pub fn of_ras(ras: &Ras) -> Result<Vec<String>, String> {
    let mut by_size: Vec<_> = ras.communicators.iter().collect();
    by_size.sort_by_key(|of| std::cmp::Reverse(of.size));
    let mut hosts = Hosts::default();
    for of in by_size {
        let there = of.ranks.iter().map(|member| (member.rank, &member.host));
        let mut all: Vec<_> = there.chain(of.missing.iter().map(|one| (one.rank, &one.host))).collect();
        all.sort_unstable();
        for (rank, host) in all {
            check(host).map_err(|why| format!("the host of rank {rank} of {}: {why}", of.hash))?;
            hosts.add(host.clone());
        }
    }
    if hosts.list.is_empty() { Err("it names no host".into()) } else { Ok(hosts.list) }
}

/// Whether that is the name of one host: letters, digits, `.`, `-` and `_`, or an IPv6 address; `user@` may stand before.
/// Neither part begins with `-`, so that no program takes it for an option.
///
/// # Errors
/// What is wrong with it.
pub fn check(name: &str) -> Result<(), String> {
    let (user, host) = name.split_once('@').map_or((None, name), |(user, host)| (Some(user), host));
    let wrong = |why: &str| Err(format!("{name:?} is no host: {why}"));
    if user.is_some_and(|user| !begins_well(user) || !user.chars().all(is_plain)) {
        return wrong("a user begins with a letter, a digit or _ and has no others but those, . and -");
    }
    match host {
        _ if name.len() > MAX_NAME => wrong("it is too long"),
        _ if host.matches(':').count() == 1 => {
            wrong("a port belongs to the command that goes there, such as ssh -p 22 {host}")
        }
        _ if host.contains(':') && host.parse::<Ipv6Addr>().is_err() => wrong("that is no IPv6 address"),
        _ if host.contains(':') => Ok(()),
        _ if !begins_well(host) => wrong("a name begins with a letter, a digit or _"),
        _ if !host.chars().all(is_plain) => wrong("a name has letters, digits, . - and _"),
        _ => Ok(()),
    }
}

fn begins_well(part: &str) -> bool {
    part.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}

/// MPICH's number of processes behind a colon; an IPv6 address has more than one colon, or brackets.
fn without_slots(word: &str) -> &str {
    match word.rsplit_once(':') {
        Some((host, slots))
            if !slots.is_empty()
                && slots.bytes().all(|byte| byte.is_ascii_digit())
                && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => word,
    }
}

/// Hosts, each once.
#[derive(Default)]
struct Hosts {
    list: Vec<String>,
    seen: BTreeSet<String>,
}

impl Hosts {
    fn add(&mut self, name: String) {
        if self.seen.insert(name.clone()) {
            self.list.push(name);
        }
    }
}

/// What is wrong at a byte of the text.
struct Mistake {
    at: usize,
    text: String,
}

impl Mistake {
    fn told(self, text: &str) -> String {
        format!("column {}: {}", text[..self.at].chars().count() + 1, self.text)
    }
}

fn mistake<T>(at: usize, text: impl Into<String>) -> Result<T, Mistake> {
    Err(Mistake { at, text: text.into() })
}

/// What stands between two commas.
struct Entry<'a> {
    at: usize,
    parts: Vec<Part<'a>>,
}

enum Part<'a> {
    Text(&'a str),
    /// The content of brackets.
    Choice(Vec<Item<'a>>),
}

enum Item<'a> {
    Word(&'a str),
    Numbers { range: RangeInclusive<u64>, width: usize },
}

impl Entry<'_> {
    fn count(&self) -> u64 {
        let count = |item: &Item| match item {
            Item::Word(_) => 1,
            Item::Numbers { range, .. } => (range.end() - range.start()).saturating_add(1),
        };
        let choices = self.parts.iter().map(|part| match part {
            Part::Text(_) => 1,
            Part::Choice(items) => items.iter().map(count).fold(0, u64::saturating_add),
        });
        choices.fold(1, u64::saturating_mul)
    }

    /// Bytes of the longest name.
    fn longest(&self) -> usize {
        let length = |item: &Item| match item {
            Item::Word(word) => word.len(),
            Item::Numbers { range, width } => (*width).max(range.end().to_string().len()),
        };
        let lengths = self.parts.iter().map(|part| match part {
            Part::Text(text) => text.len(),
            Part::Choice(items) => items.iter().map(length).max().unwrap_or(0),
        });
        lengths.sum()
    }

    /// All names. Only for few and short ones: see [`Entry::count`] and [`Entry::longest`].
    fn names(&self) -> Vec<String> {
        let mut names = vec![String::new()];
        for part in &self.parts {
            let ends = match part {
                Part::Text(text) => {
                    names.iter_mut().for_each(|name| name.push_str(text));
                    continue;
                }
                Part::Choice(items) => items.iter().flat_map(Item::names).collect::<Vec<_>>(),
            };
            let with_all = |name: &String| ends.iter().map(|end| format!("{name}{end}")).collect::<Vec<_>>();
            names = names.iter().flat_map(with_all).collect();
        }
        names
    }
}

impl Item<'_> {
    fn names(&self) -> Vec<String> {
        match self {
            Item::Word(word) => vec![(*word).to_owned()],
            Item::Numbers { range, width } => {
                range.clone().map(|number| format!("{number:0width$}")).collect()
            }
        }
    }
}

/// Takes a list apart.
fn entries(list: &str) -> Result<Vec<Entry<'_>>, Mistake> {
    let mut entries = Vec::new();
    let mut at = 0;
    while at < list.len() {
        let rest = &list[at..];
        let blank = rest.find(|c: char| c != ',' && !c.is_whitespace()).unwrap_or(rest.len());
        if blank > 0 {
            at += blank;
            continue;
        }
        let entry = entry(list, &mut at)?;
        entries.push(entry);
    }
    Ok(entries)
}

/// The entry that begins at `at`, which is then behind it.
fn entry<'a>(list: &'a str, at: &mut usize) -> Result<Entry<'a>, Mistake> {
    let mut entry = Entry { at: *at, parts: Vec::new() };
    while let Some(c) = list[*at..].chars().next().filter(|c| *c != ',' && !c.is_whitespace()) {
        let rest = &list[*at..];
        if c == '[' {
            let Some(inside) = rest[1..].split_once(']').map(|(inside, _)| inside) else {
                return mistake(*at, "[ is not closed");
            };
            let first =
                entry.parts.iter().all(|part| matches!(part, Part::Text(text) if text.ends_with('@')));
            entry.parts.push(if first && inside.contains(':') {
                Part::Text(inside)
            } else {
                Part::Choice(items(inside, *at + 1)?)
            });
            *at += inside.len() + 2;
        } else if is_plain(c) || matches!(c, '@' | ':') {
            let end = rest.find(|c| !is_plain(c) && !matches!(c, '@' | ':')).unwrap_or(rest.len());
            entry.parts.push(Part::Text(&rest[..end]));
            *at += end;
        } else if c == ']' {
            return mistake(*at, "] without [");
        } else {
            return mistake(*at, format!("{c:?} is not in names of hosts"));
        }
    }
    Ok(entry)
}

/// What stands in brackets, `at` being where it begins.
fn items(inside: &str, at: usize) -> Result<Vec<Item<'_>>, Mistake> {
    let mut place = at;
    let read = |item| {
        let read = self::item(item, place);
        place += item.len() + 1;
        read
    };
    inside.split(',').map(read).collect()
}

fn item(item: &str, at: usize) -> Result<Item<'_>, Mistake> {
    if item.is_empty() {
        return mistake(at, "something is missing in the brackets: [1-3,7]");
    }
    if let Some((odd, c)) = item.char_indices().find(|(_, c)| !is_plain(*c)) {
        return mistake(at + odd, format!("{c:?} does not belong in brackets: [1-3,7]"));
    }
    let Some((from, to)) = item.split_once('-') else { return Ok(Item::Word(item)) };
    let number = |text: &str, at: usize| match text.parse::<u64>() {
        _ if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) => {
            mistake(at, format!("{item:?} is no range of numbers: 01-16"))
        }
        Ok(number) if text.len() <= MAX_DIGITS => Ok(number),
        _ => mistake(at, format!("a number in brackets has {MAX_DIGITS} digits at most")),
    };
    let (first, last) = (number(from, at)?, number(to, at + from.len() + 1)?);
    if first > last {
        return mistake(at, format!("{item} runs backwards: {to}-{from}"));
    }
    Ok(Item::Numbers { range: first..=last, width: from.len() })
}

#[cfg(test)]
#[path = "hosts_tests.rs"]
mod tests;
