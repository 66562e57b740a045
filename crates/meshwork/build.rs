//! Tells `version.rs` what only the build knows: the target and the compiler's version. Compiles the demo's proto, with
//! protox (no system protoc).

use std::error::Error;
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-env-changed=MESHWORK_COMMIT");
    println!("cargo:rustc-env=MESHWORK_TARGET={}", variable("TARGET"));
    println!("cargo:rustc-env=MESHWORK_RUSTC={}", rustc_version());
    let descriptors = protox::compile(["shop/v1/payments.proto"], ["proto"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}

/// `rustc 1.95.0 (…)` -> `1.95.0`.
fn rustc_version() -> String {
    let output = Command::new(variable("RUSTC")).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.split_whitespace().nth(1).unwrap_or("unknown").to_owned()
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}
