//! Faults on order: what `elastictop drill` has a rank of the demo do. Python ranks have the same in
//! `inject/elastictop_drill.py`.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use super::{Progress, Raised, epoch_seconds, lock};
use crate::domain::drill::{FRESH_S, Fault, ORDER, Order, REFUSED, TAKEN};

/// The folder that orders are left in; `None` for a process that elastictop did not start.
pub(super) fn folder() -> Option<PathBuf> {
    std::env::var_os("ELASTICTOP_RANK_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

/// Carries an order out, if there is one.
pub(super) fn obey(folder: &Path, progress: &Mutex<Progress>) -> Result<(), Raised> {
    let path = folder.join(ORDER);
    let Ok(meta) = fs::metadata(&path) else { return Ok(()) };
    let is_mine = meta.uid() == rustix::process::getuid().as_raw() && meta.mode() & 0o022 == 0;
    let order = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Order>(&bytes).ok());
    let is_due = |order: &Order| {
        order.pid == std::process::id() as i32 && (epoch_seconds() - order.at).abs() <= FRESH_S as f64
    };
    let Some(order) = order.filter(|order| is_mine && is_due(order) && order.fault.needs_cooperation())
    else {
        let _ = fs::rename(&path, folder.join(REFUSED));
        return Ok(());
    };
    // Whoever asked sees by this that the fault begins.
    let _ = fs::rename(&path, folder.join(TAKEN));
    let time = Duration::from_secs(order.seconds);
    match order.fault {
        Fault::Hang => thread::sleep(time),
        Fault::Busy => {
            let until = Instant::now() + time;
            while Instant::now() < until {
                std::hint::spin_loop();
            }
        }
        Fault::Gil => {
            // The heart needs this lock, as the beating thread of a Python rank needs Python's.
            let _held = lock(progress);
            thread::sleep(time);
        }
        Fault::Read => read_a_pipe(time).map_err(|error| Raised(format!("the drill's pipe: {error}")))?,
        // The error alone: no memory is used up.
        _ => return Err(Raised("cannot allocate memory (a drill)".into())),
    }
    Ok(())
}

/// A read that nobody feeds until the time is over.
fn read_a_pipe(time: Duration) -> std::io::Result<()> {
    let (mut reader, mut writer) = std::io::pipe()?;
    thread::spawn(move || {
        thread::sleep(time);
        let _ = writer.write_all(b"x");
    });
    reader.read_exact(&mut [0])
}
