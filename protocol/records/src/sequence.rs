//! Arithmetic of a producer's sequence numbers (KIP-98): 0 to 2^31-1, and around.

const MODULUS: i64 = 1 << 31;

/// The sequence `steps` behind `sequence`, or before it if `steps` is negative.
pub fn sequence_after(sequence: i32, steps: i32) -> i32 {
    let sum = (i64::from(sequence) + i64::from(steps)).rem_euclid(MODULUS);
    i32::try_from(sum).expect("a remainder of 2^31 fits 31 bits")
}

/// How many steps `to` is behind `from`, going forward: less than 2^31.
pub fn sequence_steps(from: i32, to: i32) -> i64 {
    (i64::from(to) - i64::from(from)).rem_euclid(MODULUS)
}

/// Whether `before` comes before `sequence`: the way forward is the shorter one.
pub fn sequence_is_before(before: i32, sequence: i32) -> bool {
    (1..MODULUS / 2).contains(&sequence_steps(before, sequence))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: i32 = i32::MAX;

    #[test]
    fn zero_follows_the_largest() {
        assert_eq!(sequence_after(MAX, 1), 0);
        assert_eq!(sequence_after(0, -1), MAX);
        assert_eq!(sequence_after(MAX - 1, 5), 3);
        assert_eq!(sequence_steps(MAX - 1, 3), 5);
        assert_eq!(sequence_steps(3, MAX - 1), MODULUS - 5);
        assert_eq!(sequence_steps(7, 7), 0);
    }

    #[test]
    fn the_shorter_way_tells_what_is_before() {
        for (before, sequence) in [(0, 1), (MAX, 0), (MAX - 1, 3), (0, (1 << 30) - 1)] {
            assert!(sequence_is_before(before, sequence));
            assert!(!sequence_is_before(sequence, before));
        }
        assert!(!sequence_is_before(5, 5));
    }
}
