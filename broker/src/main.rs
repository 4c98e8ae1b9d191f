//! The program `klamm`.

use std::process::ExitCode;

/// Many small allocations from many threads: mimalloc keeps both time and memory down.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    klamm::cli::main()
}
