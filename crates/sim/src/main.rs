//! `syncline-sim`: plays random histories, from seeds that play them again.

use std::process::ExitCode;
use std::time::{Instant, SystemTime};
use syncline_sim::fault::{ALL, Faults};
use syncline_sim::run::{play, play_many};
use syncline_sim::world::Options;

/// Also SQLite's: it takes the place of malloc in this process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: syncline-sim --seeds N [--seed S] [--faults a,b,c] [--stop N] [--bug NAME]   N histories from S (random when left out)
       syncline-sim --seed S [--faults a,b,c] [--bug NAME]                          that one, with its trace
       syncline-sim --bugs                                                          every planted bug, and within how many seeds it is found
       syncline-sim --herd FILE.svg [--seed S]                                      1,000 devices after an outage of ten minutes, drawn";

struct Arguments {
    seeds: Option<u64>,
    seed: Option<u64>,
    stop: usize,
    bug: String,
    bugs: bool,
    herd: Option<String>,
    options: Options,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut out = Arguments { seeds: None, seed: None, stop: 10, bug: String::new(), bugs: false, herd: None, options: Options::default() };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("`{arg}` needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("`{text}` is not a number"));
        match arg.as_str() {
            "--seeds" => out.seeds = Some(number(value()?)?),
            "--seed" => out.seed = Some(number(value()?)?),
            "--stop" => out.stop = number(value()?)? as usize,
            "--faults" => out.options.faults = Faults::parse(&value()?)?,
            "--exactly" => out.options.exactly = true,
            "--policies" => out.options.policies = value()?.parse().map_err(|_| "--policies takes a number of a hundred")?,
            "--bug" => out.bug = value()?,
            "--herd" => out.herd = Some(value()?),
            "--bugs" => out.bugs = true,
            other => return Err(format!("`{other}` is not understood")),
        }
    }
    Ok(out)
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(why) => {
            let faults: Vec<&str> = ALL.iter().map(|f| f.1).collect();
            eprintln!("{why}\n{USAGE}\nfaults: {}", faults.join(" "));
            return ExitCode::from(2);
        }
    };
    if !cfg!(feature = "planted") && (arguments.bugs || !arguments.bug.is_empty()) {
        eprintln!("bugs are planted with the feature `planted`: cargo run -p syncline-sim --release --features planted -- --bugs");
        return ExitCode::from(2);
    }
    match (arguments.seeds, arguments.seed) {
        _ if arguments.bugs => all_bugs(),
        (_, seed) if arguments.herd.is_some() => herd(arguments.herd.as_deref().unwrap_or_default(), seed.unwrap_or(1)),
        (None, Some(seed)) => one(seed, &arguments),
        (Some(count), seed) => many(count, seed.unwrap_or_else(random_seed), &arguments),
        (None, None) => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn plant(bug: &str) {
    #[cfg(feature = "planted")]
    syncline_core::planted::plant(bug);
    let _ = bug;
}

fn one(seed: u64, arguments: &Arguments) -> ExitCode {
    syncline_sim::vfs::seed_sqlite(seed);
    plant(&arguments.bug);
    let ended = play(seed, &Options { trace: true, ..arguments.options.clone() });
    ended.lines.iter().for_each(|line| println!("{line}"));
    println!("trace {:016x}", ended.hash);
    match ended.failure {
        None => ExitCode::SUCCESS,
        Some(why) => {
            println!("FAILED {why}");
            ExitCode::FAILURE
        }
    }
}

fn many(count: u64, first: u64, arguments: &Arguments) -> ExitCode {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    println!("{count} histories from seed {first} on {threads} threads");
    let started = Instant::now();
    let tally = play_many(first, count, &arguments.options, threads, arguments.stop, || plant(&arguments.bug));
    let seconds = started.elapsed().as_secs_f64();
    println!("{} histories, {} failed, {:.0} histories per second", tally.played, tally.failed.len(), tally.played as f64 / seconds);
    for (seed, why) in &tally.failed {
        let line: String = why.chars().take(300).collect();
        println!("seed {seed}: {line}");
    }
    if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn herd(file: &str, seed: u64) -> ExitCode {
    let herd = syncline_sim::herd::play(syncline_sim::herd::Plan::default(), seed);
    let last = herd.back.iter().map(|b| b.0).max().unwrap_or(0);
    println!(
        "steady {:.1} requests per 10 s, peak {} ({:.3} x), the last device back after {:.1} s",
        herd.steady,
        herd.peak,
        f64::from(herd.peak) / herd.steady,
        last as f64 / 1000.0
    );
    match std::fs::write(file, herd.svg()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("writing {file}: {e}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(not(feature = "planted"))]
fn all_bugs() -> ExitCode {
    ExitCode::from(2)
}

/// Reports for each planted bug within how many seeds it is found.
#[cfg(feature = "planted")]
fn all_bugs() -> ExitCode {
    // A planted bug may well end in a panic; that is a way of being found.
    std::panic::set_hook(Box::new(|_| {}));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut missed = 0;
    for bug in syncline_sim::bugs::BUGS {
        let found = match syncline_sim::bugs::hunt(bug, bug.within, threads) {
            Some((seed, why)) => format!("{seed:>5}  {}", why.split_whitespace().next().unwrap_or_default()),
            None => {
                missed += 1;
                format!("not in {}", bug.within)
            }
        };
        println!("{:<28} {found:<20} {}", bug.name, bug.rule);
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn random_seed() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64 % 1_000_000_000_000)
}
