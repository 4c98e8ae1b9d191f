//! The program `klamm`.

use std::process::ExitCode;

/// Many small allocations from many threads: mimalloc keeps both time and memory down. It does not
/// ask for huge pages (feature `no_thp`): openraft reserves 1.5 MB of queues for each group, of which
/// an idle group touches little, and a huge page makes all of it resident.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    klamm::cli::main()
}
