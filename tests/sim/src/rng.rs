//! SplitMix64: small, fast, and the same on every machine.

/// A stream of numbers that is a function of its seed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Streams of one seed with different names have nothing to do with each other.
    pub fn new(seed: u64, name: u64) -> Rng {
        let mut rng = Rng(seed ^ name.wrapping_mul(0xd6e8_feb8_6659_fd93));
        rng.next();
        rng
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `low..high`; `low` if that is empty.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        match high.saturating_sub(low) {
            0 => low,
            span => low + self.next() % span,
        }
    }

    /// True `per_mille` times of a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.between(0, 1000) < per_mille
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let at = self.between(0, of.len() as u64);
        &of[usize::try_from(at).unwrap_or(0)]
    }
}
