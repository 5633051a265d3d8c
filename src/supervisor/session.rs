//! Whether this login lets a job outlive it.

use std::fs;

use procfs::process::Process;

/// What stands in the way of a job that is to outlive the SSH connection, and what to do; `None` when nothing does.
///
/// systemd ends all that runs in a login's scope when the login ends, where it is told to (`KillUserProcesses`).
pub fn warning() -> Option<String> {
    let groups = Process::myself().ok()?.cgroups().ok()?;
    let in_scope = groups.into_iter().any(|group| is_login_scope(&group.pathname));
    let kills = ["/etc/systemd/logind.conf", "/usr/lib/systemd/logind.conf"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .any(|text| kills_user_processes(&text));
    (in_scope && kills).then(|| {
        "systemd is set to end your processes when you log out (KillUserProcesses=yes), jobs included; start them \
         with: systemd-run --user --scope elastictop run …, after: loginctl enable-linger"
            .into()
    })
}

fn is_login_scope(cgroup: &str) -> bool {
    cgroup.rsplit('/').any(|part| part.starts_with("session-") && part.ends_with(".scope"))
}

fn kills_user_processes(conf: &str) -> bool {
    let mut settings = conf.lines().rev().filter_map(|line| line.trim().split_once('='));
    let last = settings.find(|(key, _)| key.trim() == "KillUserProcesses");
    last.is_some_and(|(_, value)| {
        matches!(value.trim().to_ascii_lowercase().as_str(), "yes" | "true" | "on" | "1")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_login_that_kills_is_warned_of() {
        assert!(is_login_scope("/user.slice/user-1000.slice/session-3.scope"));
        assert!(!is_login_scope("/user.slice/user-1000.slice/user@1000.service/app.slice"));
        assert!(kills_user_processes("[Login]\nKillUserProcesses=no\nKillUserProcesses = yes\n"));
        assert!(!kills_user_processes("[Login]\n#KillUserProcesses=yes\n"));
    }
}
