//! The sizes that a Fargate task can have.

/// A size of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Processors, in units of which 1,024 are one.
    pub cpu_units: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
}

/// The memory that goes with a number of processors: from, to, and in steps of.
struct Band {
    cpu_units: u32,
    least_mib: u32,
    most_mib: u32,
    step_mib: u32,
}

const fn band(cpu_units: u32, least_mib: u32, most_mib: u32, step_mib: u32) -> Band {
    Band { cpu_units, least_mib, most_mib, step_mib }
}

/// Amazon ECS, "Task definition parameters for Fargate", "Task size". A quarter of a processor has three sizes, with none
/// between 1 and 2 GiB.
const BANDS: [Band; 8] = [
    band(256, 512, 1024, 512),
    band(256, 2048, 2048, 1024),
    band(512, 1024, 4096, 1024),
    band(1024, 2048, 8192, 1024),
    band(2048, 4096, 16_384, 1024),
    band(4096, 8192, 30_720, 1024),
    band(8192, 16_384, 61_440, 4096),
    band(16_384, 32_768, 122_880, 8192),
];

/// The cheapest size with as much of both; `None` when no task is that large.
///
/// The first that fits is the cheapest: the next has twice the processors and no less memory.
pub fn size(milli_vcpu: u32, memory_mib: u32) -> Option<Size> {
    let cpu_units = (u64::from(milli_vcpu) * 1024).div_ceil(1000);
    let fits = |band: &&Band| u64::from(band.cpu_units) >= cpu_units && band.most_mib >= memory_mib;
    BANDS.iter().find(fits).map(|band| {
        let over = memory_mib.saturating_sub(band.least_mib);
        Size { cpu_units: band.cpu_units, memory_mib: band.least_mib + over.next_multiple_of(band.step_mib) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(milli_vcpu: u32, memory_mib: u32) -> Option<(u32, u32)> {
        size(milli_vcpu, memory_mib).map(|size| (size.cpu_units, size.memory_mib))
    }

    #[test]
    fn needs_become_the_next_size_up_at_every_boundary_of_memory() {
        let cases = [(1, 512), (512, 512), (513, 1024), (1024, 1024), (1025, 2048), (2048, 2048)];
        for (needed, given) in cases {
            assert_eq!(of(250, needed), Some((256, given)), "{needed} MiB");
        }
        // One MiB more than a number of processors can have takes the next number, which has more.
        assert_eq!(of(250, 2049), Some((512, 3072)));
        for (cpu_units, most, next) in [
            (512, 4096, (1024, 5120)),
            (1024, 8192, (2048, 9216)),
            (2048, 16_384, (4096, 17_408)),
            (4096, 30_720, (8192, 32_768)),
            (8192, 61_440, (16_384, 65_536)),
        ] {
            assert_eq!(of(cpu_units * 1000 / 1024, most), Some((cpu_units, most)));
            assert_eq!(of(cpu_units * 1000 / 1024, most + 1), Some(next));
        }
        assert_eq!(of(250, 122_880), Some((16_384, 122_880)));
        assert_eq!(of(250, 122_881), None);
    }

    #[test]
    fn needs_become_the_next_size_up_at_every_boundary_of_processors() {
        let mut from = 1;
        for (cpu_units, least) in
            [(256, 512), (512, 1024), (1024, 2048), (2048, 4096), (4096, 8192), (8192, 16_384), (16_384, 32_768)]
        {
            let most = cpu_units * 1000 / 1024;
            assert_eq!(of(from, 1), Some((cpu_units, least)), "{from} thousandths");
            assert_eq!(of(most, 1), Some((cpu_units, least)), "{most} thousandths");
            from = most + 1;
        }
        assert_eq!(of(16_001, 1), None);
        assert_eq!(of(u32::MAX, u32::MAX), None);
    }

    #[test]
    fn every_size_of_every_band_is_given_for_itself_or_one_that_is_as_large_and_cheaper() {
        for band in &BANDS {
            for memory_mib in (band.least_mib..=band.most_mib).step_by(band.step_mib as usize) {
                let given = size(band.cpu_units * 1000 / 1024, memory_mib).unwrap();
                assert_eq!(given, Size { cpu_units: band.cpu_units, memory_mib });
            }
        }
        // Steps that start at a number's own least: 16 GiB and 4, not a multiple of 4 by chance.
        assert_eq!(of(8000, 16_385), Some((8192, 20_480)));
        assert_eq!(of(16_000, 32_769), Some((16_384, 40_960)));
    }
}
