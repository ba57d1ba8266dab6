//! Fifty thousand certificates: how long they take to load and to look at again, what they take of memory, and what a
//! look-up costs.
//!
//! `cargo bench --bench certificates`. Each is a file of its own with an ECDSA key and one certificate above it, as
//! authorities issue them. Memory is what the kernel says (VmRSS), because keys are parsed outside of our allocator.

#![allow(unreachable_pub, missing_docs, reason = "a benchmark has no outside")]

use std::fs;
use std::path::Path;
use std::time::Instant;

use pointsman::counted;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

fn main() -> anyhow::Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        // Started as a test: there is nothing to test here.
        return Ok(());
    }
    println!("| certificates | load | look again | bytes each | bytes each, all used | look-up |");
    println!("|---|---|---|---|---|---|");
    for count in [1, 5_000, 50_000] {
        measure(count)?;
    }
    Ok(())
}

fn measure(count: usize) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    write(folder.path(), count)?;
    let before = resident()?;
    let began = Instant::now();
    let certificates = counted::Certificates::load(folder.path()).map_err(anyhow::Error::msg)?;
    let load = began.elapsed();
    let each = |now: usize| (now.saturating_sub(before)) / count;
    let unused = each(resident()?);
    let began = Instant::now();
    anyhow::ensure!(certificates.look() == 0, "nothing is wrong");
    let look = began.elapsed();
    let names: Vec<String> = (0..count).map(name).collect();
    let mut dice = fastrand::Rng::with_seed(1);
    let rounds = 1_000_000;
    let began = Instant::now();
    for _ in 0..rounds {
        anyhow::ensure!(certificates.find(&names[dice.usize(..count)]), "every name is known");
    }
    let find = began.elapsed().as_nanos() / rounds;
    for name in &names {
        anyhow::ensure!(certificates.sign(name), "every key signs");
    }
    let used = each(resident()?);
    println!("| {count} | {:.3} s | {:.3} s | {unused} | {used} | {find} ns |", load.as_secs_f64(), look.as_secs_f64());
    Ok(())
}

fn name(index: usize) -> String {
    format!("shop-{index}.example.com")
}

fn write(folder: &Path, count: usize) -> anyhow::Result<()> {
    let mut above = CertificateParams::new(Vec::new())?;
    above.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // As long as those of public authorities, which are signed with RSA.
    above.distinguished_name.push(rcgen::DnType::OrganizationName, "an authority ".repeat(60));
    let key = KeyPair::generate()?;
    let above_pem = above.self_signed(&key)?.pem();
    let issuer = Issuer::new(above, key);
    for index in 0..count {
        let key = KeyPair::generate()?;
        let leaf = CertificateParams::new(vec![name(index)])?.signed_by(&key, &issuer)?;
        fs::write(folder.join(format!("{index}.pem")), [leaf.pem(), above_pem.clone(), key.serialize_pem()].concat())?;
    }
    Ok(())
}

/// Bytes of memory in use.
fn resident() -> anyhow::Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: usize = line.and_then(|line| line.trim().strip_suffix(" kB")).unwrap_or_default().trim().parse()?;
    Ok(kib << 10)
}
