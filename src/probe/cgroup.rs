//! Memory of control groups: the limit that a rank runs under, and how often the kernel killed for it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::proc::process_dir;

/// A limit of control groups v1 that is none: the largest number of bytes that a page counter holds, rounded.
const NO_LIMIT_V1: u64 = 1 << 62;

/// The control group that counts the memory of a process.
///
/// Found while the process exists, it can be asked after its death, which is when it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryGroup {
    /// The folder with the counters.
    dir: PathBuf,
    /// Where the hierarchy is mounted: no folder above it is asked.
    top: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Version {
    /// The file with the line `oom_kill N`.
    fn events(self) -> &'static str {
        match self {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        }
    }

    fn limit(self) -> &'static str {
        match self {
            Version::V1 => "memory.limit_in_bytes",
            Version::V2 => "memory.max",
        }
    }

    fn used(self) -> &'static str {
        match self {
            Version::V1 => "memory.usage_in_bytes",
            Version::V2 => "memory.current",
        }
    }
}

impl MemoryGroup {
    /// The group of a process, or the first above it that counts memory; v2 where it does, else v1.
    ///
    /// `None` when the process is gone, or no group of it counts memory.
    pub fn of(proc_root: &Path, pid: i32) -> Option<MemoryGroup> {
        let groups = fs::read_to_string(process_dir(proc_root, pid).join("cgroup")).ok()?;
        let mounts = fs::read(proc_root.join("self/mountinfo")).ok()?;
        let mounts = String::from_utf8_lossy(&mounts);
        [Version::V2, Version::V1].into_iter().find_map(|version| {
            let group = groups.lines().find_map(|line| group_path(line, version))?;
            let (root, top) = mounts.lines().find_map(|line| mount(line, version))?;
            // The mount may show only a part of the tree, as in a container.
            let below = Path::new(group).strip_prefix(&root).unwrap_or(Path::new(group));
            let below = below.strip_prefix("/").unwrap_or(below);
            let dir = top
                .join(below)
                .ancestors()
                .take_while(|dir| dir.starts_with(&top))
                .find_map(|dir| dir.join(version.events()).exists().then(|| dir.to_owned()))?;
            Some(MemoryGroup { dir, top, version })
        })
    }

    /// How often the kernel's out-of-memory killer killed a process of the group or of one below, since the
    /// group was made: `oom_kill` of `memory.events`, or of v1's `memory.oom_control`.
    ///
    /// `None` when the group is gone, or the kernel is too old to count.
    pub fn oom_kills(&self) -> Option<u64> {
        let text = fs::read_to_string(self.dir.join(self.version.events())).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    }

    /// Memory that the group uses, in bytes. `None` when it is gone.
    pub fn used_bytes(&self) -> Option<u64> {
        fs::read_to_string(self.dir.join(self.version.used())).ok()?.trim().parse().ok()
    }

    /// The smallest memory limit of the group and those above, in bytes. `None` when there is none.
    pub fn limit_bytes(&self) -> Option<u64> {
        self.dir
            .ancestors()
            .take_while(|dir| dir.starts_with(&self.top))
            .filter_map(|dir| fs::read_to_string(dir.join(self.version.limit())).ok()?.trim().parse().ok())
            .filter(|&bytes| bytes < NO_LIMIT_V1)
            .min()
    }
}

/// [`MemoryGroup::oom_kills`] of a process that still exists.
pub fn oom_kills(proc_root: &Path, pid: i32) -> Option<u64> {
    MemoryGroup::of(proc_root, pid)?.oom_kills()
}

/// [`MemoryGroup::limit_bytes`] of a process that still exists.
pub fn memory_limit(proc_root: &Path, pid: i32) -> Option<u64> {
    MemoryGroup::of(proc_root, pid)?.limit_bytes()
}

/// The control group of a process, as the kernel names it: that of v2 where there is one, else that of v1 that counts
/// memory. `None` when the process is gone.
pub fn path_of(proc_root: &Path, pid: i32) -> Option<String> {
    let groups = fs::read_to_string(process_dir(proc_root, pid).join("cgroup")).ok()?;
    let of = |version| groups.lines().find_map(|line| group_path(line, version)).map(str::to_owned);
    of(Version::V2).or_else(|| of(Version::V1))
}

/// The path in a line of `/proc/PID/cgroup`, `ID:CONTROLLERS:PATH`; v2 has id 0 and no controllers.
fn group_path(line: &str, version: Version) -> Option<&str> {
    let mut fields = line.splitn(3, ':');
    let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let fits = match version {
        Version::V1 => controllers.split(',').any(|controller| controller == "memory"),
        Version::V2 => id == "0" && controllers.is_empty(),
    };
    fits.then_some(path)
}

/// Root and mount point in a line of `/proc/self/mountinfo`, when it is the hierarchy in question.
fn mount(line: &str, version: Version) -> Option<(PathBuf, PathBuf)> {
    let (place, kind) = line.split_once(" - ")?;
    let mut kind = kind.split(' ');
    let (name, options) = (kind.next()?, kind.nth(1).unwrap_or_default());
    let fits = match version {
        Version::V1 => name == "cgroup" && options.split(',').any(|option| option == "memory"),
        Version::V2 => name == "cgroup2",
    };
    let mut fields = place.split(' ').skip(3);
    let (root, top) = (fields.next()?, fields.next()?);
    fits.then(|| (unescape(root), unescape(top)))
}

/// The kernel writes blanks in paths as `\040`.
fn unescape(path: &str) -> PathBuf {
    PathBuf::from(path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(cgroup: &str, mountinfo: &str) -> Tree {
            let dir = tempfile::tempdir().unwrap();
            let tree = Tree(dir);
            tree.write("proc/7/cgroup", cgroup);
            let top = tree.0.path().join("sys").display().to_string();
            tree.write("proc/self/mountinfo", &mountinfo.replace("{top}", &top));
            tree
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn group(&self) -> Option<MemoryGroup> {
            MemoryGroup::of(&self.0.path().join("proc"), 7)
        }
    }

    const V2_MOUNT: &str =
        "22 1 0:5 / /proc rw - proc proc rw\n30 23 0:26 / {top} rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";

    #[test]
    fn version_2_walks_up_to_the_first_group_that_counts() {
        let tree = Tree::new("0::/slurm/job_1/step_0\n", V2_MOUNT);
        tree.write("sys/slurm/memory.max", "max\n");
        tree.write("sys/slurm/memory.events", "oom 9\noom_kill 9\n");
        tree.write(
            "sys/slurm/job_1/memory.events",
            "low 0\nhigh 0\nmax 5\noom 2\noom_kill 2\noom_group_kill 0\n",
        );
        tree.write("sys/slurm/job_1/memory.max", "4096\n");
        fs::create_dir_all(tree.0.path().join("sys/slurm/job_1/step_0")).unwrap();
        let group = tree.group().unwrap();
        assert_eq!((group.oom_kills(), group.limit_bytes()), (Some(2), Some(4096)));
        fs::remove_file(tree.0.path().join("proc/7/cgroup")).unwrap();
        assert_eq!(
            (tree.group(), group.oom_kills()),
            (None, Some(2)),
            "it answers after the process's death"
        );
    }

    #[test]
    fn a_container_that_sees_a_part_of_the_tree_finds_its_group() {
        let mounts = "30 23 0:26 /docker/abc {top} rw - cgroup2 cgroup2 rw\n";
        let tree = Tree::new("0::/docker/abc/inner\n", mounts);
        tree.write("sys/inner/memory.events", "oom_kill 1\n");
        assert_eq!(tree.group().unwrap().oom_kills(), Some(1));
    }

    #[test]
    fn version_1_is_asked_where_version_2_does_not_count_memory() {
        let mounts = format!("{V2_MOUNT}31 23 0:27 / {{top}}/mem rw - cgroup cgroup rw,memory\n");
        let tree = Tree::new("4:cpu,memory:/job\n0::/\n", &mounts);
        tree.write("sys/mem/job/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n");
        tree.write("sys/mem/job/memory.limit_in_bytes", "9223372036854771712\n");
        tree.write("sys/mem/memory.limit_in_bytes", "8192\n");
        let group = tree.group().unwrap();
        assert_eq!((group.oom_kills(), group.limit_bytes()), (Some(3), Some(8192)));
    }

    #[test]
    fn nothing_known_is_none() {
        let tree = Tree::new("0::/\n", V2_MOUNT);
        assert_eq!(tree.group(), None);
        assert_eq!(Tree::new("junk\n::\n", "junk - \n - cgroup2\n").group(), None);
        let old = Tree::new("0::/\n", V2_MOUNT);
        old.write("sys/memory.events", "oom_kill many\n");
        assert_eq!(old.group().unwrap().oom_kills(), None);
    }
}
