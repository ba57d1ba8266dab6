//! Fifty thousand certificates: how long they take to load and to look at again, what they take of memory, and what a
//! look-up costs.
//!
//! `cargo bench --bench certificates`. Each is a file of its own with its key and one certificate above it, as
//! authorities issue them. Memory is what the kernel says (VmRSS), because keys are parsed outside of our allocator; once
//! its key has signed, a certificate takes more.

#![allow(unreachable_pub, missing_docs, reason = "a benchmark has no outside")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use pointsman::counted;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SignatureAlgorithm};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        // Started as a test: there is nothing to test here.
        return Ok(());
    }
    if let [.., kind, count] = &arguments[..]
        && let Ok(count) = count.parse()
    {
        return measure(kind, count);
    }
    println!("| key | certificates | load | CPU | look again | bytes each | bytes more, once used | look-up |");
    println!("|---|---|---|---|---|---|---|---|");
    for (kind, count) in [("ECDSA", 1), ("ECDSA", 5_000), ("ECDSA", 50_000), ("RSA", 50_000)] {
        // In a process of its own, so that none lives in the memory that another has left.
        let status = Command::new(std::env::current_exe()?).arg("--bench").args([kind, &count.to_string()]).status()?;
        anyhow::ensure!(status.success(), "{status}");
    }
    Ok(())
}

fn measure(kind: &str, count: usize) -> anyhow::Result<()> {
    let algorithm = if kind == "RSA" { &rcgen::PKCS_RSA_SHA256 } else { &rcgen::PKCS_ECDSA_P256_SHA256 };
    let folder = tempfile::tempdir()?;
    write(folder.path(), algorithm, count)?;
    let before = resident()?;
    let (began, busy) = (Instant::now(), cpu()?);
    let certificates = counted::Certificates::load(folder.path()).map_err(anyhow::Error::msg)?;
    let (load, busy) = (began.elapsed(), cpu()? - busy);
    let loaded = resident()?;
    let each = loaded.saturating_sub(before) / count;
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
    let (used, before) = (count.min(5_000), resident()?);
    for name in names.iter().take(used) {
        anyhow::ensure!(certificates.sign(name), "every key signs");
    }
    let more = resident()?.saturating_sub(before) / used;
    let (load, look) = (load.as_secs_f64(), look.as_secs_f64());
    println!("| {kind} | {count} | {load:.3} s | {busy:.2} s | {look:.3} s | {each} | {more} | {find} ns |");
    Ok(())
}

fn name(index: usize) -> String {
    format!("shop-{index}.example.com")
}

fn write(folder: &Path, algorithm: &'static SignatureAlgorithm, count: usize) -> anyhow::Result<()> {
    let mut above = CertificateParams::new(Vec::new())?;
    above.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // As long as those of public authorities, which are signed with RSA.
    above.distinguished_name.push(rcgen::DnType::OrganizationName, "an authority ".repeat(30));
    let key = KeyPair::generate()?;
    let above_pem = above.self_signed(&key)?.pem();
    let issuer = Issuer::new(above, key);
    // Making an RSA key takes longer than all else here: they share one.
    let is_slow = algorithm == &rcgen::PKCS_RSA_SHA256;
    let shared = KeyPair::generate_for(algorithm)?;
    for index in 0..count {
        let own = if is_slow { None } else { Some(KeyPair::generate_for(algorithm)?) };
        let key = own.as_ref().unwrap_or(&shared);
        let leaf = CertificateParams::new(vec![name(index)])?.signed_by(key, &issuer)?;
        fs::write(folder.join(format!("{index}.pem")), [leaf.pem(), above_pem.clone(), key.serialize_pem()].concat())?;
    }
    Ok(())
}

/// Seconds that all threads have run, in steps of 10 ms.
fn cpu() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // Behind the name, which may have spaces: the times are the 14th and 15th field (proc_pid_stat(5)).
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace()).into_iter().flatten();
    let ticks: Vec<f64> = fields.skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// Bytes of memory in use.
fn resident() -> anyhow::Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: usize = line.and_then(|line| line.trim().strip_suffix(" kB")).unwrap_or_default().trim().parse()?;
    Ok(kib << 10)
}
