//! The machine on networks as they are: a train with tunnels, a signal without throughput, an answer that never comes, a metered
//! link, one that comes and goes. Time and network are played; each wait is compared with the arithmetic that made it.

use syncline::machine::{Action, BACKOFF_MS_MAX, BATCH_MS, Event, FLAP_MS, Machine, Network, SCHEDULE_MS, Waiting};

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
/// How long a sync takes where the network carries it.
const SYNC_MS: i64 = 400;

/// How a network behaves.
#[derive(Clone, Copy)]
struct Profile {
    /// Ms with and without a network, in turn, beginning with it.
    on: i64,
    off: i64,
    /// How long a sync takes to fail where it is not carried.
    fails_after: i64,
    /// Whether the host says when the network comes and goes.
    told: bool,
    /// What the host says of it while it is there.
    kind: Network,
}

impl Profile {
    fn is_up(&self, at: i64) -> bool {
        at.rem_euclid(self.on + self.off) < self.on
    }
    /// Whether it is up from one time to another.
    fn carries(&self, from: i64, to: i64) -> bool {
        from.rem_euclid(self.on + self.off) + (to - from) <= self.on
    }
}

/// What happened.
#[derive(Default)]
struct Played {
    /// When syncs began, and whether they ended well.
    syncs: Vec<(i64, bool)>,
    /// How long each write waited until it was on the server.
    waited: Vec<i64>,
    /// When the network came, when the machine would have tried next by itself, and when it did.
    came: Vec<(i64, Option<i64>, i64)>,
}

/// Plays half an hour of a profile, with a write every `write_ms`, and then ten minutes of a good network.
fn play(profile: Profile, write_ms: i64, mut seed: u64) -> Played {
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 20
    };
    random();
    let mut machine = Machine::new(random);
    let (storm, end) = (30 * MINUTE, 40 * MINUTE);
    let mut out = Played::default();
    let (mut timer, mut pending): (Option<i64>, Vec<i64>) = (None, vec![]);
    // When the running sync ends, how, and how many writes it took along.
    let mut syncing: Option<(i64, bool, usize)> = None;
    let (mut next_write, mut next_turn, mut awaited) = (write_ms, profile.on, None::<(i64, Option<i64>)>);
    let mut todo = machine.handle(0, Event::Network(profile.kind));
    todo.extend(machine.handle(0, Event::Started));
    let mut now = 0;
    loop {
        for action in todo.drain(..) {
            match action {
                Action::SetTimer(at) => timer = Some(at),
                Action::StartSync => {
                    assert!(syncing.is_none(), "two syncs at a time");
                    let is_carried = now >= storm || profile.carries(now, now + SYNC_MS);
                    syncing = Some((now + if is_carried { SYNC_MS } else { profile.fails_after }, is_carried, pending.len()));
                    out.syncs.push((now, is_carried));
                    if let Some((came, tried)) = awaited.take() {
                        out.came.push((came, tried, now));
                    }
                }
                Action::OpenStream => {}
            }
        }
        assert!(syncing.is_some() || machine.waiting().timer().is_some_and(|at| at >= now), "{:?} ends by nothing", machine.waiting());
        let wake = [timer.filter(|_| syncing.is_none()), syncing.map(|s| s.0), Some(next_write), Some(next_turn)].into_iter().flatten().min();
        now = wake.unwrap().max(now);
        if now >= end {
            assert!(pending.is_empty() || pending[0] > end - 10 * SECOND, "a write is not on the server after ten good minutes");
            return out;
        }
        todo = match () {
            () if syncing.is_some_and(|s| s.0 <= now) => {
                let (_, ok, taken) = syncing.take().unwrap();
                if ok {
                    out.waited.extend(pending.drain(..taken).map(|at| now - at));
                }
                machine.handle(now, if ok { Event::SyncSucceeded } else { Event::SyncFailed { retry_after_ms: None } })
            }
            () if next_turn <= now => {
                let is_up = now >= storm || profile.is_up(now);
                next_turn = if now >= storm { end } else { (now + if is_up { profile.on } else { profile.off }).min(storm) };
                awaited = None;
                let told = if is_up { profile.kind } else { Network::None };
                let own = match machine.waiting() {
                    Waiting::Backoff(at, _) => Some(at),
                    _ => None,
                };
                let todo = if profile.told { machine.handle(now, Event::Network(told)) } else { vec![] };
                if is_up && syncing.is_none() && !pending.is_empty() {
                    awaited = Some((now, own));
                }
                todo
            }
            () if next_write <= now => {
                next_write += write_ms;
                pending.push(now);
                machine.handle(now, Event::LocalWrite { high_priority: false })
            }
            () => {
                timer = None;
                machine.handle(now, Event::TimerFired)
            }
        };
    }
}

const TRAIN: Profile = Profile { on: 45 * SECOND, off: 80 * SECOND, fails_after: 10 * SECOND, told: true, kind: Network::Unmetered };

#[test]
fn on_a_train_whose_host_tells_of_tunnels_each_end_of_one_starts_a_sync() {
    for seed in 0..50 {
        let played = play(TRAIN, 7 * SECOND, seed);
        assert!(played.came.len() > 8);
        for (came, _, tried) in &played.came {
            assert!((0..=FLAP_MS).contains(&(tried - came)), "seed {seed}: {}", tried - came);
        }
        // In a tunnel nothing is tried; a sync that the tunnel cuts is the only one that fails.
        assert!(played.syncs.iter().filter(|s| !s.1).count() <= 16, "seed {seed}");
        let longest = TRAIN.off + TRAIN.fails_after + FLAP_MS + BATCH_MS + 2 * SYNC_MS;
        assert!(played.waited.iter().all(|ms| *ms <= longest), "seed {seed}: {:?}", played.waited.iter().max());
    }
}

#[test]
fn a_signal_without_throughput_that_nobody_tells_of_costs_one_backoff() {
    let silent = Profile { told: false, ..TRAIN };
    for seed in 0..50 {
        let played = play(silent, 7 * SECOND, seed);
        assert!(!played.came.is_empty());
        for (came, own, tried) in &played.came {
            // Exactly when its backoff said; before it had failed, with the writes that it gathers.
            match own {
                Some(at) => assert_eq!(tried, at, "seed {seed}"),
                None => assert!((0..=BATCH_MS + 7 * SECOND).contains(&(tried - came)), "seed {seed}"),
            }
        }
    }
}

#[test]
fn an_answer_that_never_comes_is_tried_again_as_the_backoff_says_and_no_oftener() {
    // One way only: what goes up arrives, nothing comes back; a stall ends each try.
    let one_way = Profile { on: 1, off: 30 * MINUTE, fails_after: 20 * SECOND, told: false, kind: Network::Unmetered };
    let mut tries = 0;
    for seed in 0..50 {
        let played = play(one_way, 10 * SECOND, seed);
        let failed: Vec<i64> = played.syncs.iter().filter(|s| !s.1).map(|s| s.0).collect();
        for (n, pair) in failed.windows(2).enumerate() {
            let most = (SECOND << n.min(20)).min(BACKOFF_MS_MAX);
            assert!((1..=most).contains(&(pair[1] - pair[0] - one_way.fails_after)), "seed {seed}, try {n}");
        }
        tries += failed.len();
        // The network is good after half an hour: what waits is there after at most one more backoff.
        let first = played.syncs.iter().find(|s| s.1 && s.0 > 0).unwrap().0;
        assert!(first <= 30 * MINUTE + BACKOFF_MS_MAX + one_way.fails_after, "seed {seed}");
    }
    assert!(tries / 50 < 30, "{} tries in half an hour", tries / 50);
}

#[test]
fn a_metered_network_carries_writes_and_no_schedule() {
    let metered = Profile { on: 40 * MINUTE, off: 1, fails_after: SECOND, told: true, kind: Network::Metered };
    // A write every 13 minutes: each goes after two seconds, and nothing else does besides what the network and the start asked for.
    let played = play(metered, 13 * MINUTE, 3);
    assert_eq!(played.waited, [BATCH_MS + SYNC_MS; 3]);
    assert_eq!(played.syncs.len(), 2 + 3, "{:?}", played.syncs);
    let unmetered = play(Profile { kind: Network::Unmetered, ..metered }, 16 * MINUTE, 3);
    assert!(unmetered.syncs.iter().any(|s| s.0 >= SCHEDULE_MS && (s.0 - 2 * SYNC_MS) % SCHEDULE_MS == 0), "{:?}", unmetered.syncs);
}

#[test]
fn a_network_that_comes_and_goes_starts_a_sync_every_five_seconds_at_most() {
    for (on, off) in [(SECOND, SECOND), (300, 900), (6 * SECOND, 100)] {
        let flapping = Profile { on, off, fails_after: 50, told: true, kind: Network::Unmetered };
        for seed in 0..20 {
            let played = play(flapping, 30 * SECOND, seed);
            let stormy = played.syncs.iter().filter(|s| s.0 < 30 * MINUTE).count() as i64;
            // Besides those of the network, each write may start one, and each failure is tried again.
            assert!(stormy <= 30 * MINUTE / FLAP_MS + 2 * 60 + 60, "{on} on, {off} off, seed {seed}: {stormy}");
        }
    }
}
