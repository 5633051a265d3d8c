//! What the machine as a whole has and uses, under the names that W&B gives to it.

use std::{fs, path::Path};

use jiff::tz::TimeZone;

/// The local time zone: that of `TZ` where it is set, else that of `/etc/localtime`.
///
/// The file is read as it is. `TimeZone::system` looks for its name among all zones there are: two milliseconds, and a
/// list of six hundred names.
pub fn time_zone() -> TimeZone {
    let file = || fs::read("/etc/localtime").ok().filter(|_| std::env::var_os("TZ").is_none());
    file().and_then(|bytes| TimeZone::tzif("Local", &bytes).ok()).unwrap_or_else(TimeZone::system)
}

/// Seconds that local time is ahead of UTC now.
pub fn utc_offset_s() -> i32 {
    jiff::Timestamp::now().to_zoned(time_zone()).offset().seconds()
}

/// Bytes of memory that the machine has, and those that can be had without swapping.
pub fn memory(root: &Path) -> Option<(u64, u64)> {
    let text = fs::read_to_string(root.join("meminfo")).ok()?;
    let kilobytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    Some((kilobytes("MemTotal")? << 10, kilobytes("MemAvailable")? << 10))
}

/// Hardware threads that this process may use.
pub fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
}

/// Bytes sent and received by all network devices but the loopback, since boot.
pub fn network(root: &Path) -> Option<(u64, u64)> {
    let text = fs::read_to_string(root.join("net/dev")).ok()?;
    let devices =
        text.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    let mut sum = (0, 0);
    for (_, numbers) in devices {
        let mut numbers = numbers.split_ascii_whitespace().map(|number| number.parse::<u64>().unwrap_or(0));
        sum.1 += numbers.next().unwrap_or(0);
        sum.0 += numbers.nth(7).unwrap_or(0);
    }
    Some(sum)
}

/// Bytes of the file system that a path is on, and those that are used.
pub fn disk(path: &Path) -> Option<(u64, u64)> {
    let disk = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    Some((bytes(disk.f_blocks), bytes(disk.f_blocks.saturating_sub(disk.f_bfree))))
}

/// The machine's figures: `memory_percent`, `proc.memory.availableMB`, `disk./.usagePercent` and `.usageGB`, and
/// `network.sent` and `.recv`, counted from `since`. What cannot be read is left out.
pub fn figures(since: Option<(u64, u64)>) -> Vec<(String, f64)> {
    let root = Path::new(super::proc::ROOT);
    let mut figures = Vec::new();
    let mut tell = |name: &str, value: f64| figures.push((name.to_owned(), value));
    let share = |part: u64, all: u64| part as f64 / all.max(1) as f64 * 100.0;
    if let Some((all, available)) = memory(root) {
        tell("memory_percent", share(all.saturating_sub(available), all));
        tell("proc.memory.availableMB", available as f64 / f64::from(1 << 20));
    }
    if let Some((all, used)) = disk(Path::new("/")) {
        tell("disk./.usagePercent", share(used, all));
        tell("disk./.usageGB", used as f64 / f64::from(1 << 30));
    }
    if let (Some(since), Some(now)) = (since, network(root)) {
        tell("network.sent", now.0.saturating_sub(since.0) as f64);
        tell("network.recv", now.1.saturating_sub(since.1) as f64);
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_time_is_that_of_the_system() {
        let (ours, theirs) = (time_zone(), TimeZone::system());
        for month in 0..24 {
            let at = jiff::Timestamp::from_second(1_700_000_000 + month * 30 * 86_400).unwrap();
            assert_eq!(ours.to_offset(at), theirs.to_offset(at), "at {at}");
        }
    }

    #[test]
    fn figures_of_a_made_up_machine() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!((memory(dir.path()), network(dir.path())), (None, None));
        fs::create_dir(dir.path().join("net")).unwrap();
        fs::write(dir.path().join("meminfo"), "MemTotal:  16 kB\nMemFree: 1 kB\nMemAvailable:    4 kB\n")
            .unwrap();
        let dev = "Inter-|   Receive\n face |bytes\n    lo: 9 9 9 9 9 9 9 9 9 9\n  eth0: 100 1 0 0 0 0 0 0 50 2 0\n";
        fs::write(dir.path().join("net/dev"), dev).unwrap();
        assert_eq!(memory(dir.path()), Some((16 << 10, 4 << 10)));
        assert_eq!(network(dir.path()), Some((50, 100)));
    }

    #[test]
    fn this_machine_has_a_disk_and_cores() {
        assert!(disk(Path::new("/")).is_some_and(|(all, used)| all >= used && all > 0) && cores() > 0);
        assert!(disk(Path::new("/nonexistent")).is_none());
        let names: Vec<_> = figures(None).into_iter().map(|(name, _)| name).collect();
        assert!(names.contains(&"disk./.usageGB".to_owned()), "{names:?}");
    }
}
