//! Numbers of the driver in words.

/// Bits of NVML's clock event reasons, in words.
pub const REASONS: [(u64, &str); 9] = [
    (0x1, "idle"),
    (0x2, "clocks set by hand"),
    (0x4, "power cap"),
    (0x8, "hardware slowdown"),
    (0x10, "sync boost"),
    (0x20, "software thermal"),
    (0x40, "hardware thermal"),
    (0x80, "power brake"),
    (0x100, "display clocks"),
];

/// Slowed down by heat or by the power supply's brake: what a healthy GPU never shows. The cap on power and the
/// general slowdown bit are left out, as each is set in normal work on some boards.
pub const TROUBLE: u64 = 0x20 | 0x40 | 0x80;

/// Why clocks are not higher, in words; nothing for a GPU that runs as fast as it may.
pub fn throttle(bits: u64) -> Vec<&'static str> {
    REASONS.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, word)| *word).collect()
}

/// The reasons that slow down work, as one short word; `None` when there is none. Idle and clocks that somebody set
/// are no slowdown.
pub fn throttle_short(bits: u64) -> Option<&'static str> {
    match bits {
        bits if bits & 0x60 != 0 => Some("heat"),
        bits if bits & 0x80 != 0 => Some("brake"),
        bits if bits & 0x8 != 0 => Some("slow"),
        bits if bits & 0x4 != 0 => Some("power"),
        _ => None,
    }
}

/// What the driver wants done with a GPU, by `NVML_FI_DEV_GET_GPU_RECOVERY_ACTION`.
pub fn recovery(action: u32) -> String {
    match action {
        0 => "none".into(),
        1 => "reset the GPU".into(),
        2 => "reboot the node".into(),
        3 => "drain peer-to-peer traffic".into(),
        4 => "drain, then reset the GPU".into(),
        other => format!("action {other}"),
    }
}

/// What an Xid means, as far as one sentence can say; `None` for numbers without one here.
pub fn xid(number: u64) -> Option<&'static str> {
    Some(match number {
        13 => "a kernel of the job accessed memory or instructions wrongly",
        31 => "a kernel of the job touched an address that is not mapped",
        43 => "the job's work on the GPU was stopped after an error of its own",
        45 => "the driver cleaned up after a process that ended",
        48 => "a memory error could not be corrected",
        61 | 62 => "the GPU's microcontroller halted",
        63 => "a row of memory was marked to be replaced",
        64 => "a row of memory could not be replaced",
        79 => "the GPU has fallen off the bus",
        92 => "many memory errors were corrected",
        94 => "a memory error was contained: one process is lost",
        95 => "a memory error was not contained: the GPU must be reset",
        119 | 120 => "the GPU's system processor does not answer",
        140 => "a memory error could not be recovered from",
        143 => "the GPU could not be initialised",
        74 | 145..=150 => "an NVLink failed",
        154 => "the driver asks for a recovery of the GPU",
        _ => return None,
    })
}

/// Whether an Xid is worth an alarm. Those that follow from the end of a process come with every restart.
pub fn is_alarming(number: u64) -> bool {
    !matches!(number, 43 | 45)
}

/// Whether the hardware is at fault and not the job, so that a restart on this node will not help.
pub fn is_hardware(number: u64) -> bool {
    matches!(number, 48 | 61 | 62 | 64 | 74 | 79 | 95 | 119 | 120 | 140 | 143 | 145..=150)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_told_in_words_and_the_worst_in_one() {
        assert_eq!(throttle(0x44), ["power cap", "hardware thermal"]);
        assert_eq!(throttle(0), Vec::<&str>::new());
        assert_eq!(
            [throttle_short(0x44), throttle_short(0x84), throttle_short(0x4)],
            [Some("heat"), Some("brake"), Some("power")]
        );
        assert_eq!([throttle_short(0x1), throttle_short(0x2), throttle_short(0)], [None; 3]);
        assert_eq!(throttle(u64::MAX).len(), REASONS.len());
    }

    #[test]
    fn an_xid_that_a_kill_leaves_behind_is_no_alarm() {
        assert!(!is_alarming(45) && is_alarming(79) && is_hardware(79) && !is_hardware(31));
    }
}
