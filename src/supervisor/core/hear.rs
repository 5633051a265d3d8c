//! What ranks say: lines, steps, heartbeats, their place.

use super::{Core, Effect, Out, StepSource};
use crate::domain::{beat::Beat, cause::Clue, event::Fact, evidence::Proof, health, time::Stamp, verdict};

impl Core {
    pub(super) fn mark(&mut self, now: Stamp, pid: Option<i32>, proof: Proof, line: String) {
        let local_rank = match pid {
            Some(pid) => match self.by_pid(pid) {
                Some((local_rank, _)) => Some(local_rank),
                // A rank of an attempt that is over: its words prove nothing about this one.
                None => return,
            },
            None => None,
        };
        if let Some(local_rank) = local_rank {
            let input = verdict::Input::Mark { local_rank, proof: &proof };
            self.verdict.handle(now, input, &mut Vec::new());
        }
        self.ledger.note(now, Clue::Mark { local_rank, proof, line });
    }

    pub(super) fn wrote(
        &mut self,
        now: Stamp,
        pid: i32,
        lines: u64,
        last_line: Option<&str>,
        step: Option<(u64, Stamp)>,
        out: &mut Out,
    ) {
        let Some((local_rank, member)) = self.by_pid(pid) else { return };
        member.wrote(lines, last_line);
        if lines > 0 {
            let input = verdict::Input::Wrote { local_rank, step, loss: None };
            self.verdict.handle(now, input, &mut Vec::new());
        }
        let Some((_, member)) = self.by_pid(pid) else { return };
        if !member.is_alive() {
            // Its last words were read after its last sample.
            let last = member.sample(local_rank, now);
            self.emit(now, Fact::Progress { ranks: vec![last] }, out);
        }
        let Some((_, member)) = self.by_pid(pid) else { return };
        let mut told = Vec::new();
        if let Some((step, at)) = step {
            member.step(at.min(now), step, StepSource::Line);
            member.health.handle(now, health::Input::Step, &mut told);
            self.ledger.note(now, Clue::Stepped { local_rank });
        }
        self.tell_health(now, local_rank, told, out);
    }

    /// Returns whether it told of the rank's place.
    pub(super) fn beat(&mut self, now: Stamp, beat: &Beat, out: &mut Out) -> bool {
        let Some(local_rank) = self.crew.by_pid(beat.pid).map(|(local_rank, _)| local_rank) else {
            return false;
        };
        self.verdict.handle(now, verdict::Input::Beat { local_rank, beat }, &mut Vec::new());
        let Some((local_rank, member)) = self.by_pid(beat.pid) else { return false };
        let mut told = Vec::new();
        let placed = member.beat(now, beat, &mut told);
        if placed {
            self.placed(now, local_rank, out);
        }
        self.tell_health(now, local_rank, told, out);
        placed
    }

    pub(super) fn placed(&mut self, now: Stamp, local_rank: u32, out: &mut Out) {
        let Some(member) = self.crew.get_mut(local_rank) else { return };
        let (place, pid) = (member.place.clone(), member.proc.pid);
        self.verdict.handle(now, verdict::Input::Rank { local_rank, rank: place.rank }, &mut Vec::new());
        if let Some(rank) = place.rank {
            member.health.handle(now, health::Input::Rank(rank), &mut Vec::new());
            self.ledger.note(now, Clue::Started { local_rank, rank: Some(rank), pid });
            out.effects.push(Effect::Placed { pid, rank });
        }
        self.emit(now, Fact::RankPlaced { local_rank, place: place.clone() }, out);
        self.wandb_of_place(now, &place, out);
    }
}
