//! Chance that can be repeated.

/// SplitMix64 (Steele, Lea and Flood, 2014): small, and every seed is a good one.
pub(crate) struct Chance(u64);

impl Chance {
    /// The chance that `seed` leads to.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The seed in SWITCHYARD_TEST_SEED, else another one each time.
    pub(crate) fn seed() -> u64 {
        number("SWITCHYARD_TEST_SEED").unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            Self(u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap()).next()
        })
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `from..=to`.
    pub(crate) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from + 1)
    }

    /// True in `percent` of 100.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.between(1, 100) <= percent
    }
}

/// The number in the environment variable `name`, where there is one.
pub(crate) fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}: expected a number, found `{text}`")))
}
