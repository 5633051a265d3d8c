//! The injected Python files: embedded in the binary, written into the job's folder.

use std::{fs, io, path::Path};

const FILES: [(&str, &str); 3] = [
    ("sitecustomize.py", include_str!("inject/sitecustomize.py")),
    ("elastictop.py", include_str!("inject/elastictop.py")),
    ("elastictop_drill.py", include_str!("inject/elastictop_drill.py")),
];

/// Writes the files into a folder that exists.
///
/// # Errors
/// Those of writing.
pub fn write(dir: &Path) -> io::Result<()> {
    FILES.iter().try_for_each(|(name, text)| fs::write(dir.join(name), text))
}
