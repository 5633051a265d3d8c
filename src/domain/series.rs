//! A figure over time, in three bounded rings: by the second, by ten seconds, by the minute.

use std::{collections::VecDeque, iter};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::time::Stamp;

/// Width of a cell and number of cells: two minutes, twenty minutes, four hours.
const RINGS: [(u64, usize); 3] = [(1_000, 120), (10_000, 120), (60_000, 240)];

/// How closely a series is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// One cell for each second.
    #[default]
    Second,
    /// One cell for ten seconds.
    TenSeconds,
    /// One cell for a minute.
    Minute,
}

impl Resolution {
    /// The finest one whose ring covers `span_ms`; the coarsest for longer times.
    pub fn for_span(span_ms: u64) -> Resolution {
        let covers = |(width, cells): (u64, usize)| width * cells as u64 >= span_ms;
        match RINGS.iter().position(|ring| covers(*ring)) {
            Some(0) => Resolution::Second,
            Some(1) => Resolution::TenSeconds,
            _ => Resolution::Minute,
        }
    }

    /// Width of a cell in milliseconds.
    pub fn cell_ms(self) -> u64 {
        RINGS[self as usize].0
    }

    /// Cells that are kept.
    pub fn cells(self) -> usize {
        RINGS[self as usize].1
    }
}

/// One figure of one thing over time: whole numbers of at least 0, averaged over each cell.
///
/// A cell takes two bytes: a viewer of 4096 GPUs has 24 000 series. Numbers of five digits and more, such as MiB of
/// memory, are kept in steps of a few.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Low bits that cells leave out.
    shift: u8,
    rings: [Ring; 3],
}

/// A cell in which nothing was told.
const EMPTY: u16 = u16::MAX;

/// The cells that are full, and the one that is being filled.
#[derive(Clone, Debug, Default, PartialEq)]
struct Ring {
    full: VecDeque<u16>,
    /// Number of the cell that is being filled, counted from the epoch.
    last: u64,
    /// What was told in it: hundreds of series grow each second, and most of that stays out of the rings.
    sum: u64,
    /// How often; 0 while nothing was told at all.
    count: u64,
}

impl Series {
    /// Takes in a value. One that is older than the newest cell is left out.
    pub fn push(&mut self, at: Stamp, value: u32) {
        self.make_room(value);
        for (ring, (width, most)) in self.rings.iter_mut().zip(RINGS) {
            ring.push(at.0 / width, value, most, self.shift);
        }
    }

    /// Makes cells hold numbers as large as this.
    fn make_room(&mut self, value: u32) {
        while value >> self.shift >= u32::from(EMPTY) {
            self.shift += 1;
            let cells = self.rings.iter_mut().flat_map(|ring| &mut ring.full);
            cells.filter(|cell| **cell != EMPTY).for_each(|cell| *cell >>= 1);
        }
    }

    fn value(&self, cell: u16) -> Option<u32> {
        (cell != EMPTY).then(|| u32::from(cell) << self.shift)
    }

    /// The values of the `count` cells that end with the one of `now`, oldest first.
    pub fn window(&self, resolution: Resolution, now: Stamp, count: usize) -> Vec<Option<u32>> {
        let ring = &self.rings[resolution as usize];
        let end = now.0 / resolution.cell_ms();
        (0..count as u64)
            .rev()
            .map(|back| {
                let behind = ring.last.checked_sub(end.checked_sub(back)?)?;
                self.value(ring.cell(usize::try_from(behind).ok()?, self.shift)?)
            })
            .collect()
    }

    /// Whether nothing was ever told.
    pub fn is_empty(&self) -> bool {
        self.rings[0].count == 0
    }
}

impl Ring {
    fn push(&mut self, cell: u64, value: u32, most: usize, shift: u8) {
        if self.count > 0 && cell < self.last {
            return;
        }
        if self.count > 0 && cell > self.last {
            // A gap longer than the ring leaves nothing of what was before.
            let more = (cell - self.last).min(most as u64) as usize;
            // Never longer than the ring, so that it takes no more room than that.
            let over = (self.full.len() + more).saturating_sub(most - 1);
            let new = iter::once(self.filling(shift)).chain(iter::repeat(EMPTY)).take(more);
            let kept = new.skip(over.saturating_sub(self.full.len()));
            self.full.drain(..over.min(self.full.len()));
            self.full.extend(kept);
            (self.sum, self.count) = (0, 0);
        }
        self.last = cell;
        self.sum = self.sum.saturating_add(value.into());
        self.count += 1;
    }

    /// What the cell that is being filled holds.
    fn filling(&self, shift: u8) -> u16 {
        let mean = self.sum.checked_div(self.count).map_or(EMPTY.into(), |mean| mean >> shift);
        mean.min(EMPTY.into()) as u16
    }

    /// The cell so many before the newest; `None` before the first one that is kept.
    fn cell(&self, behind: usize, shift: u8) -> Option<u16> {
        if behind == 0 {
            return Some(self.filling(shift));
        }
        self.full.get(self.full.len().checked_sub(behind)?).copied()
    }
}

/// Three times: number of the newest cell, what it holds, and the cells as numbers, -1 for those without a value.
#[derive(Serialize, Deserialize)]
struct Flat(u64, u64, u64, Vec<i64>);

impl Serialize for Series {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let flat = |ring: &Ring| {
            let filling = (ring.count > 0).then(|| ring.filling(self.shift));
            let cells = ring.full.iter().copied().chain(filling);
            let cells = cells.map(|cell| self.value(cell).map_or(-1, i64::from)).collect();
            Flat(ring.last, ring.sum, ring.count, cells)
        };
        [flat(&self.rings[0]), flat(&self.rings[1]), flat(&self.rings[2])].serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Series {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Series, D::Error> {
        let flat = <[Flat; 3]>::deserialize(deserializer)?;
        let mut series = Series::default();
        let largest = flat.iter().flat_map(|Flat(.., cells)| cells).max().copied();
        series.make_room(largest.and_then(|cell| u32::try_from(cell).ok()).unwrap_or(0));
        let shift = series.shift;
        let mut most = RINGS.iter().map(|(_, most)| *most);
        series.rings = flat.map(|Flat(last, sum, count, mut cells)| {
            // The newest one is told by its sum.
            cells.pop();
            let skip = (cells.len() + 1).saturating_sub(most.next().unwrap_or(0));
            let kept = |cell| u32::try_from(cell).map_or(EMPTY, |value| (value >> shift) as u16);
            Ring { full: cells.into_iter().skip(skip).map(kept).collect(), last, sum, count }
        });
        Ok(series)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T: u64 = 1_795_167_600_000;

    #[test]
    fn cells_are_means_and_gaps_stay_empty() {
        let mut series = Series::default();
        for (second, value) in [(0, 10), (0, 20), (1, 30), (4, 50)] {
            series.push(Stamp(T + second * 1000), value);
        }
        let shown = series.window(Resolution::Second, Stamp(T + 5000), 7);
        assert_eq!(shown, [None, Some(15), Some(30), None, None, Some(50), None]);
        assert_eq!(series.window(Resolution::TenSeconds, Stamp(T + 5000), 1), [Some(27)]);
        let told = "[[1795167604,50,1,[15,30,-1,-1,50]],[179516760,110,4,[27]],[29919460,110,4,[27]]]";
        assert_eq!(
            serde_json::to_string(&series).unwrap(),
            told,
            "as those say it who are of another version"
        );
        series.push(Stamp(T), 1000);
        assert_eq!(series.window(Resolution::Second, Stamp(T), 1), [Some(15)], "the past does not change");
    }

    #[test]
    fn rings_are_bounded_and_survive_json() {
        let mut series = Series::default();
        for second in 0..100_000 {
            series.push(Stamp(T + second * 1000), (second % 100) as u32);
        }
        let kept: Vec<usize> = series.rings.iter().map(|ring| ring.full.len() + 1).collect();
        assert_eq!(kept, [120, 120, 240]);
        let json = serde_json::to_string(&series).unwrap();
        assert_eq!(serde_json::from_str::<Series>(&json).unwrap(), series);
        series.push(Stamp(T + 1_000_000_000), 7);
        let now = Stamp(T + 1_000_000_000);
        assert_eq!(series.window(Resolution::Minute, now, 3), [None, None, Some(7)]);
    }

    #[test]
    fn large_numbers_are_kept_in_steps() {
        let mut series = Series::default();
        for (second, value) in [(0, 100), (1, 81_559), (3, 3_000_000_000)] {
            series.push(Stamp(T + second * 1000), value);
        }
        let shown = series.window(Resolution::Second, Stamp(T + 3000), 4);
        let step = 1 << 16;
        assert_eq!(shown, [Some(0), Some(81_559 / step * step), None, Some(3_000_000_000 / step * step)]);
        let json = serde_json::to_string(&series).unwrap();
        assert_eq!(serde_json::from_str::<Series>(&json).unwrap(), series);
    }

    #[test]
    fn the_finest_ring_that_reaches_back_is_taken() {
        let of = |seconds: u64| Resolution::for_span(seconds * 1000);
        assert_eq!(
            [of(60), of(600), of(3600), of(999_999)],
            [Resolution::Second, Resolution::TenSeconds, Resolution::Minute, Resolution::Minute]
        );
    }

    proptest! {
        #[test]
        fn no_order_of_values_panics(values in prop::collection::vec((0u64..u64::MAX / 2, any::<u32>()), 0..50), now: u64) {
            let mut series = Series::default();
            for (at, value) in values {
                series.push(Stamp(at), value);
            }
            for resolution in [Resolution::Second, Resolution::TenSeconds, Resolution::Minute] {
                prop_assert_eq!(series.window(resolution, Stamp(now), 300).len(), 300);
            }
        }
    }
}
