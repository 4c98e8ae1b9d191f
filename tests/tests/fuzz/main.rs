//! Fuzz targets: frames, every request at each version, record batches in every codec, recovery of a
//! store from files that anything may have happened to.
//!
//! `cargo test` replays the corpus in `corpus/` and runs each target for a moment with fresh inputs;
//! `BOLERO_RANDOM_ITERATIONS=100000000` makes a campaign of it, and `cargo bolero test` drives the
//! same targets with libFuzzer. An input that fails goes into `corpus/` with a name that says why.
//!
//! Random bytes seldom look like anything. So the first byte of an input decides what the others are:
//! the thing itself, or changes to something well-formed ([`Input`]).

mod records;
mod recovery;
mod requests;

use std::path::{Path, PathBuf};

/// Longest input.
const MAX_LEN: usize = 4096;
/// Fresh inputs in an ordinary run, unless the environment says otherwise.
const ITERATIONS: usize = 3000;

/// An input, read from its front.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// Next byte; 0 at the end.
    pub(crate) fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// Next two bytes as a number.
    pub(crate) fn word(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Changes bytes as the rest of the input says: overwrites, cuts, insertions, and numbers that
    /// parsers stumble over.
    pub(crate) fn damage(mut self, bytes: &mut Vec<u8>) {
        const STUMBLING: [&[u8]; 8] = [
            &[0xff; 4],
            &[0x7f, 0xff, 0xff, 0xff],
            &[0x80, 0, 0, 0],
            &[0; 4],
            &[0xff, 0xff, 0xff, 0xff, 0x0f],
            &[0xff; 10],
            &[0x7f, 0xff],
            &[0x80],
        ];
        while !self.is_empty() && !bytes.is_empty() {
            let (what, at) = (self.byte(), self.word() % bytes.len());
            match what % 5 {
                0 | 1 => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= self.byte().max(1);
                    }
                }
                2 => bytes.truncate(at),
                3 => bytes.insert(at, self.byte()),
                _ => {
                    let number = STUMBLING[usize::from(self.byte()) % STUMBLING.len()];
                    for (byte, new) in bytes.iter_mut().skip(at).zip(number) {
                        *byte = *new;
                    }
                }
            }
        }
    }
}

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(target)
}

/// Runs a target over its corpus; how many inputs that was.
fn replay(target: &str, run: fn(&[u8])) -> usize {
    let mut inputs: Vec<PathBuf> = std::fs::read_dir(corpus(target))
        .expect("each target has a corpus")
        .map(|entry| entry.expect("readable").path())
        .collect();
    inputs.sort();
    for path in &inputs {
        let input = std::fs::read(path).expect("readable");
        if std::panic::catch_unwind(|| run(&input)).is_err() {
            panic!("{} fails", path.display());
        }
    }
    inputs.len()
}

macro_rules! targets {
    ($($name:ident: $run:path, 1 in $share:literal;)*) => {
        $(
            #[test]
            fn $name() {
                assert!(replay(stringify!($name), $run) > 0, "the corpus is empty");
                bolero::check!()
                    .with_iterations(ITERATIONS / $share)
                    .with_max_len(MAX_LEN)
                    .for_each(|input: &[u8]| $run(input));
            }
        )*
    };
}

targets! {
    frames: requests::frames, 1 in 1;
    requests: requests::requests, 1 in 1;
    batches: records::batches, 1 in 3;
    codecs: records::codecs, 1 in 3;
    store: recovery::store, 1 in 30;
}

/// Writes well-formed inputs of every kind into the corpus.
#[test]
#[ignore = "changes the corpus"]
fn the_corpus_is_made_anew() {
    for (target, seeds) in [
        ("frames", requests::frame_seeds()),
        ("requests", requests::request_seeds()),
        ("batches", records::batch_seeds()),
        ("codecs", records::codec_seeds()),
        ("store", recovery::seeds()),
    ] {
        let folder = corpus(target);
        std::fs::create_dir_all(&folder).expect("writable");
        for (name, seed) in seeds {
            std::fs::write(folder.join(name), seed).expect("writable");
        }
    }
}
