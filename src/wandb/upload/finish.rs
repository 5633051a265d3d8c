//! The files of a run, which are stored once it ends.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use prost::Message;
use reqwest::Body;
use serde_json::{Value, json};

use super::{console, cursor::Cursor};
use crate::{
    domain::forward::retry::Verdict,
    wandb::{
        client::{Client, Failure, RunPath, documents::CREATE_RUN_FILES},
        log::{
            Reader,
            frame::Step,
            record::{Kind, Record, Timestamp},
        },
    },
};

/// A file and where its contents are.
enum Contents {
    Text(String),
    File(PathBuf),
    Temporary(tempfile::NamedTempFile),
}

/// Stores all files of a run; gives the names of those that are stored. Those that storage refuses are left out with a
/// word why.
///
/// # Errors
/// The server or storage should be asked again.
pub(super) async fn store(
    client: &Client,
    cursor: &Cursor,
    segments: &[PathBuf],
    id: Option<&str>,
) -> Result<(Vec<String>, Option<String>), Failure> {
    let Some(place) = &cursor.place else { return Ok((Vec::new(), None)) };
    let files = collect(cursor, segments);
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    let answer = match addresses(client, place, &names, id).await {
        Err(failure) if failure.verdict == Verdict::Refused => {
            return Ok((Vec::new(), Some(failure.text)));
        }
        other => other?,
    };
    let headers: Vec<String> = texts(&answer["uploadHeaders"]);
    let (mut stored, mut trouble) = (Vec::new(), None);
    for (name, contents) in files {
        let known = answer["files"].as_array().into_iter().flatten();
        let Some(url) = known.filter(|file| file["name"] == name).find_map(|file| file["uploadUrl"].as_str())
        else {
            continue;
        };
        let put = match open(&contents).await {
            Ok((body, length)) => client.put(url, &headers, body, length).await,
            Err(error) => {
                trouble = Some(format!("{name} cannot be read: {error}"));
                continue;
            }
        };
        match put {
            Ok(()) => stored.push(name.to_owned()),
            Err(failure) if failure.verdict == Verdict::Refused => {
                trouble = Some(format!("{name}: {}", failure.text));
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok((stored, trouble))
}

async fn addresses(
    client: &Client,
    place: &RunPath,
    names: &[&str],
    id: Option<&str>,
) -> Result<Value, Failure> {
    let variables =
        json!({"entity": place.entity, "project": place.project, "run": place.run, "files": names});
    let mut data = client.query(CREATE_RUN_FILES, variables, id).await?;
    Ok(data["createRunFiles"].take())
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|text| Some(text.as_str()?.to_owned())).collect()
}

fn collect(cursor: &Cursor, segments: &[PathBuf]) -> Vec<(&'static str, Contents)> {
    let newest = segments.last().and_then(|segment| segment.parent()).map(|folder| folder.join("files"));
    let beside = |name: &str| newest.as_ref().map(|folder| folder.join(name)).filter(|path| path.is_file());
    let mut files = vec![
        ("config.yaml", Contents::Text(cursor.about.yaml(&cursor.client))),
        ("wandb-summary.json", Contents::Text(cursor.summary_line())),
    ];
    match (beside("wandb-metadata.json"), &cursor.about.metadata) {
        (Some(path), _) => files.push(("wandb-metadata.json", Contents::File(path))),
        (None, Some(data)) => files.push(("wandb-metadata.json", Contents::Text(data.to_string()))),
        (None, None) => {}
    }
    files.extend(beside("requirements.txt").map(|path| ("requirements.txt", Contents::File(path))));
    let output = match beside("output.log") {
        Some(path) if segments.len() == 1 => Some(Contents::File(path)),
        _ if cursor.console > 0 => console_of(segments).ok().map(Contents::Temporary),
        _ => None,
    };
    files.extend(output.map(|contents| ("output.log", contents)));
    files
}

async fn open(contents: &Contents) -> io::Result<(Body, u64)> {
    let path: &Path = match contents {
        Contents::Text(text) => return Ok((Body::from(text.clone()), text.len() as u64)),
        Contents::File(path) => path,
        Contents::Temporary(file) => file.path(),
    };
    let file = tokio::fs::File::open(path).await?;
    let length = file.metadata().await?.len();
    Ok((Body::from(tokio::io::AsyncReadExt::take(file, length).into_inner()), length))
}

/// The console of all segments as text, in a file.
fn console_of(segments: &[PathBuf]) -> io::Result<tempfile::NamedTempFile> {
    let folder = segments.last().and_then(|segment| segment.parent()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    let mut out = io::BufWriter::new(file.as_file_mut());
    let mut open = console::Open::new();
    for segment in segments {
        let mut reader = Reader::open(segment, 0).map_err(io::Error::other)?;
        while let Some(step) = reader.step(u64::MAX).map_err(io::Error::other)? {
            // Only pieces of the console are decoded: field 13 after the number.
            if let Step::Record { .. } = step
                && is_output(reader.payload())
                && let Ok(Record { kind: Some(Kind::Output(piece)), .. }) = Record::decode(reader.payload())
            {
                for line in console::feed(&mut open, &piece) {
                    out.write_all(line.plain().as_bytes())?;
                }
            }
        }
    }
    for line in console::flush(&mut open, Timestamp::default()) {
        out.write_all(line.plain().as_bytes())?;
    }
    out.flush()?;
    drop(out);
    Ok(file)
}

/// Whether a record looks like a piece of the console: its number, then field 13.
fn is_output(payload: &[u8]) -> bool {
    let number = payload.iter().skip(1).position(|byte| byte & 0x80 == 0).map_or(0, |at| at + 2);
    let start = if payload.first() == Some(&0x08) { number } else { 0 };
    payload.get(start) == Some(&(13 << 3 | 2))
}
