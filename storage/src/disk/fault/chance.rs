//! The dice of a crash: which of the bytes that were not synced are there afterwards. The same seed throws the same. The
//! store's own tests throw them, too.

/// SplitMix64: enough for coin tosses, and the same on every machine.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..bound`; `bound` is not zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// How likely an unsynced piece survives a crash, in quarters: some crashes lose all, some
/// nothing, most something.
#[derive(Clone, Copy)]
pub(super) struct Survival(u64);

impl Survival {
    pub(super) fn pick(chance: &mut Chance) -> Survival {
        Survival(chance.below(5))
    }

    pub(super) fn toss(self, chance: &mut Chance) -> bool {
        chance.below(4) < self.0
    }
}
