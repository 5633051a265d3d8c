//! Which log files grew: the kernel tells (inotify), so that those of silent ranks cost nothing, however many there
//! were in weeks of restarts.

use std::{collections::HashMap, fs::File, mem::MaybeUninit, os::fd::AsRawFd};

use rustix::{
    fd::OwnedFd,
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
};

/// All files are looked at once in so many looks: a kernel tells nothing of what another machine writes.
const LOOK_AT_ALL: u32 = 10;

/// The files of a logbook, by their numbers there.
#[derive(Debug, Default)]
pub(super) struct Growth {
    kernel: Kernel,
    files: HashMap<i32, Vec<usize>>,
    watched: Vec<bool>,
    due: Vec<bool>,
    looks: u32,
}

#[derive(Debug, Default)]
enum Kernel {
    #[default]
    Unasked,
    Tells(OwnedFd),
    /// It has no watches left to give: all files are looked at each time.
    Refuses,
}

impl Growth {
    /// Which of so many files to look at now. New ones are among them.
    pub(super) fn due(&mut self, count: usize) -> Vec<usize> {
        self.due.resize(count, true);
        self.watched.resize(count, false);
        self.hear();
        self.looks += 1;
        if self.looks >= LOOK_AT_ALL || matches!(self.kernel, Kernel::Refuses) {
            self.looks = 0;
            self.due.fill(true);
        }
        let due = (0..count).filter(|number| self.due[*number]).collect();
        self.due.fill(false);
        due
    }

    /// This file is due at the next look.
    pub(super) fn look_again(&mut self, number: usize) {
        if let Some(due) = self.due.get_mut(number) {
            *due = true;
        }
    }

    /// From now on this file is due when it grew. What it has already must be read after this.
    pub(super) fn watch(&mut self, number: usize, file: &File) {
        if self.watched[number] {
            return;
        }
        if matches!(self.kernel, Kernel::Unasked) {
            let asked = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
            self.kernel = asked.map_or(Kernel::Refuses, Kernel::Tells);
        }
        let Kernel::Tells(kernel) = &self.kernel else { return };
        // Not by its name: another file may have that by now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        match inotify::add_watch(kernel, path, WatchFlags::MODIFY) {
            Ok(watch) => {
                self.files.entry(watch).or_default().push(number);
                self.watched[number] = true;
            }
            Err(error) => {
                tracing::debug!(%error, "log files are looked at one by one");
                self.kernel = Kernel::Refuses;
            }
        }
    }

    fn hear(&mut self) {
        let Kernel::Tells(kernel) = &self.kernel else { return };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut told = Reader::new(kernel, &mut buffer);
        while let Ok(event) = told.next() {
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                self.due.fill(true);
            }
            for number in self.files.get(&event.wd()).into_iter().flatten() {
                self.due[*number] = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Empty files that are watched, and the look after which none is due.
    fn watched(count: usize) -> (tempfile::TempDir, Vec<File>, Growth) {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<File> =
            (0..count).map(|number| File::create(dir.path().join(number.to_string())).unwrap()).collect();
        let mut growth = Growth::default();
        assert_eq!(growth.due(count), (0..count).collect::<Vec<_>>(), "new ones are due");
        files.iter().enumerate().for_each(|(number, file)| growth.watch(number, file));
        assert!(matches!(growth.kernel, Kernel::Tells(_)), "this machine has no inotify");
        (dir, files, growth)
    }

    #[test]
    fn silent_files_are_looked_at_in_every_tenth_look_alone() {
        let (_dir, mut files, mut growth) = watched(3);
        let mut turns = Vec::new();
        for look in 2..=21 {
            if look == 5 {
                files[1].write_all(b"a line\n").unwrap();
            }
            turns.push(growth.due(3).len());
        }
        let all = |look: &usize| if look.is_multiple_of(10) { 3 } else { usize::from(*look == 5) };
        assert_eq!(turns, (2..=21).map(|look| all(&look)).collect::<Vec<_>>());
    }

    #[test]
    fn what_two_numbers_share_is_told_of_both_and_what_is_asked_for_is_due_once() {
        let (dir, _files, mut growth) = watched(2);
        let mut same = File::options().append(true).open(dir.path().join("1")).unwrap();
        assert_eq!(growth.due(3), [2]);
        growth.watch(2, &same);
        same.write_all(b"a line\n").unwrap();
        assert_eq!(growth.due(3), [1, 2]);
        growth.look_again(0);
        assert_eq!(growth.due(3), [0]);
        assert!(growth.due(3).is_empty());
    }

    #[test]
    fn all_are_due_when_more_was_written_than_the_kernel_counts() {
        let (_dir, mut files, mut growth) = watched(3);
        let most = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        // Only equal events in a row are told as one.
        for round in 0..most.trim().parse::<usize>().unwrap() + 2 {
            files[round % 2].write_all(b"x").unwrap();
        }
        files[2].write_all(b"lost").unwrap();
        assert_eq!(growth.due(3), [0, 1, 2]);
        assert!(growth.due(3).is_empty());
    }

    #[test]
    fn without_the_kernel_s_help_all_are_due() {
        let mut growth = Growth { kernel: Kernel::Refuses, ..Growth::default() };
        assert_eq!(growth.due(2), [0, 1]);
        assert_eq!(growth.due(2), [0, 1]);
    }
}
