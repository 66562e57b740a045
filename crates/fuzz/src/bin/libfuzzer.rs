//! libFuzzer around one target: `make fuzz` builds and runs it.
//!
//! `MESHWORK_FUZZ_TARGET` names the target; what else there is to say are libFuzzer's own options. In the folder
//! `MESHWORK_FUZZ_SEEDS` the target's seeds and words are written before libFuzzer reads it.

#![no_main]

use std::path::Path;
use std::sync::OnceLock;
use std::{env, fs, process};

use meshwork_fuzz::{ALL, Target, find};

static TARGET: OnceLock<Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(init: begin(), |input: &[u8]| {
    if let Some(target) = TARGET.get() {
        (target.run)(input);
    }
});

fn begin() {
    let name = env::var("MESHWORK_FUZZ_TARGET").unwrap_or_default();
    let Some(target) = find(&name) else {
        let known: Vec<&str> = ALL.iter().map(|target| target.name).collect();
        eprintln!("MESHWORK_FUZZ_TARGET is {name:?}; it may be {}", known.join(", "));
        process::exit(2);
    };
    if let Ok(folder) = env::var("MESHWORK_FUZZ_SEEDS") {
        write_seeds(&target, Path::new(&folder));
    }
    // Only once: libFuzzer begins once.
    let _ = TARGET.set(target);
}

fn write_seeds(target: &Target, folder: &Path) {
    let quoted = |word: &[u8]| word.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    let words: String = target.words.iter().map(|word| format!("\"{}\"\n", quoted(word))).collect();
    let written = (target.seeds)()
        .iter()
        .enumerate()
        .try_for_each(|(number, seed)| fs::write(folder.join(format!("seed-{number:03}")), seed));
    if let Err(error) = written.and_then(|()| fs::write(folder.with_extension("words"), words)) {
        eprintln!("cannot write seeds to {}: {error}", folder.display());
        process::exit(2);
    }
}
