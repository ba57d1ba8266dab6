//! A million names: how long they take to load, what they take of memory, and what a look-up costs.
//!
//! `cargo bench --bench names`. Look-ups are hot (one name again and again) and cold (a name drawn by lot each time, so
//! that nearly every one misses the caches); beside them stands what the machine takes for one read of as much memory.

#![allow(unreachable_pub, missing_docs, reason = "a benchmark has no outside")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use pointsman::route::Router;
use pointsman::wire::name::{Name, Written};

/// Counts the bytes in use.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

#[allow(unsafe_code, reason = "an allocator cannot be written without; it only counts and hands on")]
// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn main() -> anyhow::Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        // Started as a test: there is nothing to test here.
        return Ok(());
    }
    println!(
        "| names | load | bytes a name | hot look-up | cold look-up | cold, unknown name | one read of as much memory |"
    );
    println!("|---|---|---|---|---|---|---|");
    for count in [1, 10_000, 1_000_000] {
        measure(count)?;
    }
    Ok(())
}

/// Names as customers have them: two to four labels, 15 to 40 bytes.
fn name(index: usize) -> String {
    let tenant = index.wrapping_mul(2_654_435_761) % 100_003;
    match index % 3 {
        0 => format!("shop-{index}.example.com"),
        1 => format!("api.customer-{tenant}.n{index}.example.net"),
        _ => format!("www.{index}-{tenant}.example"),
    }
}

/// What one read at random of so much memory takes, each after the one before, in nanoseconds: nothing that looks names
/// up in a table of that size can be faster.
fn one_read(bytes: usize) -> f64 {
    let memory: Vec<u64> = (0..bytes as u64 / 8).collect();
    let (rounds, mut at) = (1_000_000, 0_u64);
    let began = Instant::now();
    for _ in 0..rounds {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(memory[(at >> 33) as usize % memory.len()] | 1);
    }
    black_box(at);
    began.elapsed().as_nanos() as f64 / f64::from(rounds)
}

fn measure(count: usize) -> anyhow::Result<()> {
    let mut text = String::from(
        "[listener.edge]\nbind = '127.0.0.1:1'\n[pool.web]\nendpoints = ['127.0.0.1:2']\n[route.web]\nlistener = 'edge'\n\
         pool = 'web'\nsni = [\n",
    );
    for index in 0..count {
        writeln!(text, "'{}',", name(index))?;
    }
    text.push_str("]\n");
    let file = tempfile::NamedTempFile::with_suffix(".toml")?;
    std::fs::write(file.path(), &text)?;
    drop(text);

    let began = Instant::now();
    let loaded = pointsman::config::load(file.path())?;
    let before = IN_USE.load(Ordering::Relaxed);
    let router = Router::new(&loaded.config, 0);
    let each = (IN_USE.load(Ordering::Relaxed) - before) as f64 / count as f64;
    let load = began.elapsed();
    drop(loaded);

    let rounds = 1_000_000;
    let mut dice = fastrand::Rng::with_seed(1);
    let mut draw = |beyond: usize| -> Vec<Name> {
        let known = |index| match Name::read(name(index).as_bytes()) {
            Ok(Written::Name(name)) => name,
            other => panic!("{other:?} is no name"),
        };
        (0..rounds.min(50 * count)).map(|_| known(beyond + dice.usize(..count))).collect()
    };
    let time = |names: &[Name], found: bool| {
        let began = Instant::now();
        for name in names {
            assert_eq!(black_box(router.find(Some(name), [], None)).is_ok(), found);
        }
        began.elapsed().as_nanos() as f64 / names.len() as f64
    };
    let hot = time(&vec![draw(0).swap_remove(0); rounds], true);
    // The names to look up lie behind one another: they are not what is waited for.
    let (known, unknown) = (draw(0), draw(count));
    let (cold, none) = (time(&known, true), time(&unknown, false));
    let read = one_read((each * count as f64) as usize);
    println!(
        "| {count} | {:.3} s | {each:.0} | {hot:.0} ns | {cold:.0} ns | {none:.0} ns | {read:.0} ns |",
        load.as_secs_f64()
    );
    Ok(())
}
