//! Random draws whose values depend on the seed alone: the same on every machine and with every version of `rand`.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A stream of draws.
#[derive(Debug, Clone)]
pub(super) struct Random(ChaCha8Rng);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    pub(super) fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// In `0..bound`.
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.0.next_u32()) * u64::from(bound)) >> 32) as u32
    }

    /// In `low..=high`.
    pub(super) fn between(&mut self, low: i64, high: i64) -> i64 {
        debug_assert!(low <= high);
        let span = high.abs_diff(low) as u128 + 1;
        low + ((u128::from(self.bits()) * span) >> 64) as i64
    }

    /// In `[0, 1)`.
    pub(super) fn fraction(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(super) fn chance(&mut self, share: f64) -> bool {
        self.fraction() < share
    }
}

/// A bijection on `u64` that looks random: unique numbers in, unique numbers out.
pub(super) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Draws an index by weight in constant time (Vose's alias method).
#[derive(Debug, Clone)]
pub(super) struct Weighted {
    /// Per column: below this cut the column itself, otherwise `other`.
    cut: Vec<u32>,
    other: Vec<u32>,
}

impl Weighted {
    pub(super) fn new(weights: &[f64]) -> Self {
        let count = weights.len();
        let mean = weights.iter().sum::<f64>() / count as f64;
        let mut scaled: Vec<f64> = weights.iter().map(|weight| weight / mean).collect();
        let mut cut = vec![u32::MAX; count];
        let mut other: Vec<u32> = (0..count as u32).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..count).partition(|&index| scaled[index] < 1.0);
        while let (Some(&low), Some(&high)) = (small.last(), large.last()) {
            small.pop();
            cut[low] = (scaled[low] * f64::from(u32::MAX)) as u32;
            other[low] = high as u32;
            scaled[high] -= 1.0 - scaled[low];
            if scaled[high] < 1.0 {
                large.pop();
                small.push(high);
            }
        }
        Self { cut, other }
    }

    pub(super) fn draw(&self, random: &mut Random) -> u32 {
        let column = random.below(self.cut.len() as u32);
        if (random.bits() >> 32) as u32 <= self.cut[column as usize] { column } else { self.other[column as usize] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weighted_draws_follow_their_weights() {
        let weighted = Weighted::new(&[1.0, 2.0, 7.0]);
        let mut random = Random::new(1);
        let mut seen = [0_u32; 3];
        for _ in 0..100_000 {
            seen[weighted.draw(&mut random) as usize] += 1;
        }
        for (count, expected) in seen.iter().zip([10_000_u32, 20_000, 70_000]) {
            assert!(count.abs_diff(expected) < 1_000, "{seen:?}");
        }
    }

    #[test]
    fn ranges_hold_their_ends() {
        let mut random = Random::new(2);
        let draws: Vec<i64> = (0..1_000).map(|_| random.between(-1, 1)).collect();
        for value in -1..=1 {
            assert!(draws.contains(&value));
        }
        assert!(draws.iter().all(|draw| (-1..=1).contains(draw)));
    }
}
