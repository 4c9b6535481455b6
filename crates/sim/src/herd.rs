//! Many devices and a server that is away for a while: does it meet a storm when it comes back?
//!
//! The machines are those of `syncline::machine`; only time and the network are played. Each device writes every ten seconds.
//! Half of the network refuses connections while the server is away, half swallows them, so that a try fails at once or after
//! ten seconds. Whatever reaches the server is counted in the second in which it does: syncs, and streams of wakes.

use crate::rng::Rng;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::Write;
use syncline::machine::{Action, Event, Machine, Waiting};

/// How often a device writes.
const WRITE_MS: i64 = 10_000;
/// How long an answer takes.
const ANSWER_MS: i64 = 80;
/// How long a swallowed connection is waited for.
const CONNECT_MS: i64 = 10_000;
/// A draw that makes every jitter the whole backoff: one less than a multiple of all of them.
const WHOLE: u64 = 57_599_999;
const SECOND_MS: i64 = 1_000;
/// The window in which requests are compared, in seconds.
pub const WINDOW_S: usize = 10;

/// What is played.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many devices.
    pub devices: usize,
    /// When the server goes away, and comes back, and the play ends, in seconds.
    pub away_s: (usize, usize, usize),
    /// Whether backoffs have jitter. Without it they come as the storm that they are to prevent.
    pub jitter: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Plan { devices: 1_000, away_s: (600, 1_200, 2_400), jitter: true }
    }
}

/// What the server saw.
#[derive(Clone, Debug)]
pub struct Herd {
    /// The plan.
    pub plan: Plan,
    /// Syncs and streams in each second.
    pub seconds: Vec<(u32, u32)>,
    /// Requests per window before the server went away, on average.
    pub steady: f64,
    /// The most requests in any window after it came back.
    pub peak: u32,
    /// When each device was back, in ms after the server, and when the arithmetic of its backoff said that it would be.
    pub back: Vec<(i64, i64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happens {
    Write,
    Timer,
    SyncEnds(bool),
    StreamEnds,
}

struct Device {
    machine: Machine,
    timer: Option<i64>,
    /// Writes that no sync has taken along yet, and those of the running one.
    waiting: u32,
    taken: u32,
    streaming: bool,
    swallowed: bool,
    back: Option<i64>,
    expected: Option<i64>,
}

/// Plays a herd from a seed.
pub fn play(plan: Plan, seed: u64) -> Herd {
    let mut rng = Rng::new(seed);
    let (away, back, end) = (plan.away_s.0 as i64 * SECOND_MS, plan.away_s.1 as i64 * SECOND_MS, plan.away_s.2 as i64 * SECOND_MS);
    let mut queue: BinaryHeap<Reverse<(i64, usize, Happens)>> = BinaryHeap::new();
    let mut seconds = vec![(0, 0); plan.away_s.2 + 1];
    let mut devices: Vec<Device> = (0..plan.devices)
        .map(|n| {
            let mut own = Rng::new(rng.next());
            queue.push(Reverse((rng.below(60_000) as i64, n, Happens::Timer)));
            queue.push(Reverse((60_000 + rng.below(WRITE_MS as u64) as i64, n, Happens::Write)));
            let machine = Machine::new(move || if plan.jitter { own.next() } else { WHOLE });
            Device { machine, timer: None, waiting: 0, taken: 0, streaming: false, swallowed: n % 2 == 0, back: None, expected: None }
        })
        .collect();
    queue.push(Reverse((away, usize::MAX, Happens::StreamEnds)));
    let mut healed = false;
    while let Some(Reverse((now, n, what))) = queue.pop() {
        if now > end {
            break;
        }
        if now >= back && !healed {
            healed = true;
            for d in &mut devices {
                // A try that was swallowed before the server came back is still to fail.
                d.expected = match d.machine.waiting() {
                    Waiting::Backoff(until, _) => Some(until),
                    _ => None,
                };
            }
        }
        let is_away = (away..back).contains(&now);
        if n == usize::MAX {
            for (n, d) in devices.iter_mut().enumerate().filter(|(_, d)| d.streaming) {
                d.streaming = false;
                // Cut at once, or noticed by its silence.
                queue.push(Reverse((now + if d.swallowed { 1 + rng.below(20_000) as i64 } else { 1 }, n, Happens::StreamEnds)));
            }
            continue;
        }
        let d = &mut devices[n];
        let event = match what {
            Happens::Write => {
                d.waiting += 1;
                queue.push(Reverse((now + WRITE_MS, n, Happens::Write)));
                Event::LocalWrite { high_priority: false }
            }
            Happens::Timer if d.machine.waiting() == Waiting::New => Event::Started,
            Happens::Timer if d.timer == Some(now) => Event::TimerFired,
            Happens::Timer => continue,
            Happens::SyncEnds(true) => {
                d.taken = 0;
                if now >= back && d.back.is_none() {
                    d.back = Some(now - ANSWER_MS);
                }
                Event::SyncSucceeded
            }
            Happens::SyncEnds(false) => {
                d.waiting += std::mem::take(&mut d.taken);
                Event::SyncFailed { retry_after_ms: None }
            }
            Happens::StreamEnds => Event::StreamDown,
        };
        let failed_late = matches!(what, Happens::SyncEnds(false)) && healed && d.expected.is_none();
        for action in d.machine.handle(now, event) {
            match action {
                Action::SetTimer(at) => {
                    d.timer = Some(at);
                    queue.push(Reverse((at, n, Happens::Timer)));
                }
                Action::StartSync => {
                    d.taken = std::mem::take(&mut d.waiting);
                    let after = match (is_away, d.swallowed) {
                        (false, _) => ANSWER_MS,
                        (true, true) => CONNECT_MS,
                        (true, false) => 5,
                    };
                    queue.push(Reverse((now + after, n, Happens::SyncEnds(!is_away))));
                    seconds[(now / SECOND_MS) as usize].0 += u32::from(!is_away);
                }
                Action::OpenStream if is_away => queue.push(Reverse((now + 5, n, Happens::StreamEnds))),
                Action::OpenStream => {
                    d.streaming = true;
                    seconds[(now / SECOND_MS) as usize].1 += 1;
                    d.machine.handle(now, Event::StreamUp);
                }
            }
        }
        if failed_late && let Waiting::Backoff(until, _) = d.machine.waiting() {
            d.expected = Some(until);
        }
    }
    let window = |from: usize| seconds[from..from + WINDOW_S].iter().map(|s| s.0 + s.1).sum::<u32>();
    // The first minutes are those in which the devices start.
    let calm = 120..plan.away_s.0 - WINDOW_S;
    let steady = calm.clone().map(|s| f64::from(window(s))).sum::<f64>() / calm.len() as f64;
    let peak = (plan.away_s.1..plan.away_s.2 - WINDOW_S).map(window).max().unwrap_or(0);
    let back = devices.iter().map(|d| (d.back.map_or(i64::MAX, |at| at - back), d.expected.map_or(i64::MIN, |at| at - back))).collect();
    Herd { plan, seconds, steady, peak, back }
}

impl Herd {
    /// Draws the requests per window as an SVG.
    pub fn svg(&self) -> String {
        let (w, h, left_edge, top_edge, wide_all, high) = (860.0, 330.0, 60.0, 40.0, 780.0, 230.0);
        let windows: Vec<(u32, u32)> = self.seconds.chunks(WINDOW_S).map(|c| c.iter().fold((0, 0), |sum, s| (sum.0 + s.0, sum.1 + s.1))).collect();
        let most = windows.iter().map(|w| w.0 + w.1).max().unwrap_or(1).max((1.2 * self.steady) as u32) as f64 * 1.1;
        let x = |s: f64| left_edge + wide_all * s / self.plan.away_s.2 as f64;
        let y = |n: f64| top_edge + high * (1.0 - n / most);
        let mut out = format!("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" font-family=\"sans-serif\" font-size=\"12\">\n");
        let _ = writeln!(out, "<rect width=\"{w}\" height=\"{h}\" fill=\"#fff\"/>");
        let _ = writeln!(
            out,
            "<text x=\"{left_edge}\" y=\"20\" font-size=\"14\">{} devices, each writing every 10 s: requests at the server per 10 s (peak {}, {:.2} x steady)</text>",
            self.plan.devices,
            self.peak,
            f64::from(self.peak) / self.steady
        );
        let (from, to) = (x(self.plan.away_s.0 as f64), x(self.plan.away_s.1 as f64));
        let _ = writeln!(out, "<rect x=\"{from:.1}\" y=\"{top_edge}\" width=\"{:.1}\" height=\"{high}\" fill=\"#eee\"/>", to - from);
        let _ =
            writeln!(out, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">server away</text>", (from + to) / 2.0, top_edge + high / 2.0);
        for (i, (syncs, streams)) in windows.iter().enumerate() {
            let (left, wide) = (x((i * WINDOW_S) as f64), wide_all * WINDOW_S as f64 / self.plan.away_s.2 as f64);
            let (syncs, streams) = (f64::from(*syncs), f64::from(*streams));
            let mut bar = |top: f64, bottom: f64, colour: &str| {
                if top > bottom {
                    let _ =
                        writeln!(out, "<rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{wide:.2}\" height=\"{:.1}\" fill=\"{colour}\"/>", y(top), y(bottom) - y(top));
                }
            };
            bar(syncs, 0.0, "#4878a8");
            bar(syncs + streams, syncs, "#d08030");
        }
        for (n, text) in [(self.steady, "steady"), (1.2 * self.steady, "1.2 x")] {
            let _ = writeln!(
                out,
                "<line x1=\"{left_edge}\" x2=\"{}\" y1=\"{1:.1}\" y2=\"{1:.1}\" stroke=\"#a00\" stroke-dasharray=\"4 3\"/>",
                left_edge + wide_all,
                y(n)
            );
            let _ = writeln!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#a00\">{text}</text>", left_edge - 4.0, y(n) + 4.0);
        }
        for minute in (0..=self.plan.away_s.2 / 60).step_by(5) {
            let at = x((minute * 60) as f64);
            let _ = writeln!(out, "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{minute} min</text>", top_edge + high + 18.0);
        }
        let _ = writeln!(
            out,
            "<rect x=\"{left_edge}\" y=\"{0}\" width=\"10\" height=\"10\" fill=\"#4878a8\"/><text x=\"{1}\" y=\"{2}\">syncs</text>",
            h - 22.0,
            left_edge + 16.0,
            h - 13.0
        );
        let _ = writeln!(
            out,
            "<rect x=\"{0}\" y=\"{1}\" width=\"10\" height=\"10\" fill=\"#d08030\"/><text x=\"{2}\" y=\"{3}\">streams of wakes</text>",
            left_edge + 80.0,
            h - 22.0,
            left_edge + 96.0,
            h - 13.0
        );
        out.push_str("</svg>\n");
        out
    }
}
