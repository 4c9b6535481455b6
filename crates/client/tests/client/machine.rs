//! The loop's machine, by rule and by property.

use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use syncline::machine::{
    Action, BACKOFF_MS, BACKOFF_MS_MAX, BATCH_MS, Event, FLAP_MS, Hold, Machine, Network, RESUME_MS, RETRY_AFTER_MS_MAX, SCHEDULE_MS, STREAM_MS, Waiting,
};

const HIGH: Event = Event::LocalWrite { high_priority: true };
const LOW: Event = Event::LocalWrite { high_priority: false };
const FAILED: Event = Event::SyncFailed { retry_after_ms: None };
const START: [Action; 1] = [Action::StartSync];
const NONE: [Action; 0] = [];

fn timer(at: i64) -> [Action; 1] {
    [Action::SetTimer(at)]
}

/// The greatest jitter that a backoff of `most` has.
fn greatest(most: i64) -> impl FnMut() -> u64 + Send {
    move || most as u64 - 1
}

/// A machine that has synced at 0 and has its stream.
fn idle() -> Machine {
    let mut machine = Machine::new(greatest(BACKOFF_MS));
    assert_eq!(machine.handle(0, Event::Started), START);
    assert_eq!(machine.handle(0, Event::SyncSucceeded), [Action::OpenStream, Action::SetTimer(SCHEDULE_MS)]);
    assert_eq!(machine.handle(0, Event::StreamUp), timer(SCHEDULE_MS));
    machine
}

fn backing_off() -> Machine {
    let mut machine = idle();
    machine.handle(0, Event::Wake);
    assert_eq!(machine.handle(0, FAILED), timer(BACKOFF_MS));
    machine
}

#[test]
fn writes_are_gathered_and_important_ones_are_not() {
    let mut machine = idle();
    assert_eq!(machine.handle(1000, LOW), timer(1000 + BATCH_MS));
    assert_eq!(machine.handle(1500, LOW), timer(1000 + BATCH_MS));
    assert_eq!(machine.handle(2000, Event::TimerFired), timer(1000 + BATCH_MS));
    assert_eq!(machine.handle(3000, Event::TimerFired), START);
    for event in [HIGH, Event::Wake, Event::Demand, Event::Started, Event::Window { until_ms: 9 }] {
        assert_eq!(idle().handle(1, event), START, "{event:?}");
    }
    assert_eq!(idle().handle(SCHEDULE_MS, Event::TimerFired), START);
}

#[test]
fn what_comes_during_a_sync_is_not_forgotten() {
    for (event, then) in
        [(HIGH, Action::StartSync), (LOW, Action::SetTimer(5 + BATCH_MS)), (Event::Wake, Action::StartSync), (Event::Demand, Action::StartSync)]
    {
        let mut machine = idle();
        machine.handle(1, Event::Wake);
        assert_eq!(machine.handle(2, event), NONE);
        assert_eq!(machine.handle(5, Event::SyncSucceeded), [then], "{event:?}");
    }
}

#[test]
fn only_the_network_time_in_the_background_and_a_person_end_a_backoff() {
    for event in [HIGH, LOW, Event::Wake, Event::StreamDown, Event::StreamUp, Event::Battery { low: false }, Event::Network(Network::None)] {
        assert_eq!(backing_off().handle(1, event), timer(BACKOFF_MS), "{event:?}");
    }
    for event in [Event::Demand, Event::Started, Event::Window { until_ms: 30_000 }] {
        assert_eq!(backing_off().handle(1, event), START, "{event:?}");
    }
    // A network that flaps starts a sync every five seconds at most.
    let mut machine = Machine::new(greatest(BACKOFF_MS_MAX));
    machine.handle(0, Event::Started);
    for at in 1..12 {
        machine.handle(at, FAILED);
        machine.handle(at, Event::Demand);
    }
    machine.handle(12, FAILED);
    assert_eq!(machine.handle(20, Event::Network(Network::Unmetered)), timer(11 + FLAP_MS));
    assert_eq!(machine.handle(11 + FLAP_MS, Event::Network(Network::Metered)), START);
}

#[test]
fn a_server_that_asks_for_time_gets_it() {
    let mut machine = idle();
    machine.handle(0, Event::Demand);
    machine.handle(0, Event::SyncFailed { retry_after_ms: Some(60_000) });
    let Waiting::Backoff(until, true) = machine.waiting() else { panic!() };
    assert!((60_000..=60_000 + BACKOFF_MS).contains(&until));
    for event in [Event::Network(Network::Unmetered), Event::Resumed, Event::Started, Event::Window { until_ms: i64::MAX }, HIGH] {
        assert_eq!(machine.handle(RESUME_MS, event), timer(until), "{event:?}");
    }
    assert_eq!(machine.handle(1, Event::Demand), START);
}

#[test]
fn the_app_comes_back_every_thirty_seconds_at_most() {
    let mut machine = idle();
    assert_eq!(machine.handle(RESUME_MS - 1, Event::Resumed), timer(SCHEDULE_MS));
    assert_eq!(machine.handle(RESUME_MS, Event::Resumed), START);
    assert_eq!(machine.handle(RESUME_MS + 9, FAILED), timer(RESUME_MS + 9 + BACKOFF_MS));
    // A clock that was set back leaves nothing debounced for ever.
    assert_eq!(machine.handle(-5, Event::Resumed), START);
}

#[test]
fn without_a_network_all_but_a_person_waits_for_it() {
    for event in [HIGH, Event::Wake, Event::Started, Event::Window { until_ms: 1_000 }] {
        let mut machine = idle();
        machine.handle(1, Event::Network(Network::None));
        assert_eq!(machine.handle(2, event), timer(2 + SCHEDULE_MS), "{event:?}");
        assert_eq!(machine.waiting(), Waiting::Held(Hold::NoNetwork, 2 + SCHEDULE_MS));
        // Looked at again, and found as before.
        assert_eq!(machine.handle(2 + SCHEDULE_MS, Event::TimerFired), timer(2 + 2 * SCHEDULE_MS));
        assert_eq!(machine.handle(3 + SCHEDULE_MS, Event::Network(Network::Metered)), START);
    }
    let mut machine = idle();
    machine.handle(1, Event::Network(Network::None));
    assert_eq!(machine.handle(2, Event::Demand), START);
    // A demand that failed is not tried against the host's word for ever.
    machine.handle(3, Event::Demand);
    machine.handle(4, FAILED);
    assert_eq!(machine.handle(4 + BACKOFF_MS, Event::TimerFired), timer(4 + BACKOFF_MS + SCHEDULE_MS));
    assert_eq!(machine.waiting().name(), "held_no_network");
}

#[test]
fn a_metered_network_and_a_low_battery_carry_what_is_worth_it() {
    // (metered, low battery, event or the schedule, goes)
    let schedule = Event::TimerFired;
    for (metered, low, event, goes) in [
        (true, false, schedule, false),
        (true, false, LOW, true),
        (true, false, Event::Wake, true),
        (false, true, schedule, false),
        (false, true, LOW, false),
        (false, true, Event::Wake, false),
        (false, true, HIGH, true),
        (true, true, HIGH, true),
        (true, true, LOW, false),
        (true, true, Event::Demand, true),
    ] {
        let mut machine = idle();
        machine.handle(10, Event::Network(if metered { Network::Metered } else { Network::Unmetered }));
        machine.handle(10, Event::Battery { low });
        let now = if event == schedule { SCHEDULE_MS } else { 20 };
        let mut did = machine.handle(now, event);
        if did == timer(now + BATCH_MS) && event == LOW {
            did = machine.handle(now + BATCH_MS, Event::TimerFired);
        }
        assert_eq!(did == START, goes, "{metered} {low} {event:?}");
        if !goes {
            assert!(matches!(machine.waiting(), Waiting::Held(Hold::Metered | Hold::LowBattery, _)));
            machine.handle(now + 1, Event::Battery { low: false });
            machine.handle(now + 1, Event::Network(Network::Unmetered));
            assert!(matches!(machine.waiting(), Waiting::Syncing(_)), "{metered} {low} {event:?}");
        }
    }
}

#[test]
fn time_in_the_background_is_a_deadline() {
    let mut machine = idle();
    assert_eq!(machine.handle(100, Event::Window { until_ms: 30_100 }), START);
    assert_eq!(machine.deadline_ms(), Some(30_100));
    machine.handle(200, Event::SyncSucceeded);
    machine.handle(30_100, HIGH);
    assert_eq!(machine.deadline_ms(), None);
    machine.handle(30_101, Event::Window { until_ms: 30_000 });
    assert_eq!(machine.deadline_ms(), None, "a window that is over is none");
}

#[test]
fn a_lost_stream_is_looked_after_by_a_sync_and_less_and_less_often() {
    let mut machine = Machine::new(greatest(SCHEDULE_MS * 1024));
    machine.handle(0, Event::Started);
    machine.handle(0, Event::SyncSucceeded);
    let mut now = 0;
    let mut waits = vec![];
    for _ in 0..10 {
        let actions = machine.handle(now, Event::StreamDown);
        let [Action::SetTimer(at)] = actions[..] else { panic!("{actions:?}") };
        waits.push(at - now);
        now = at;
        assert_eq!(machine.handle(now, Event::TimerFired), START);
        assert_eq!(machine.handle(now, Event::SyncSucceeded)[0], Action::OpenStream);
    }
    let expected: Vec<i64> = (0..10).map(|n| (STREAM_MS << n).min(SCHEDULE_MS)).collect();
    assert!(waits.iter().zip(&expected).all(|(wait, most)| (1..=*most).contains(wait)), "{waits:?}");
    // One that opened resets it; one that ends while a sync runs is opened after it.
    machine.handle(now, Event::StreamUp);
    machine.handle(now, Event::Wake);
    assert_eq!(machine.handle(now, Event::StreamDown), NONE);
    assert_eq!(machine.handle(now, Event::SyncSucceeded)[0], Action::OpenStream);
}

#[test]
fn every_state_has_a_name_of_its_own() {
    let holds = [Hold::NoNetwork, Hold::Metered, Hold::LowBattery].map(|hold| Waiting::Held(hold, 0));
    let others =
        [Waiting::New, Waiting::Idle(0), Waiting::Gathering(0), Waiting::Backoff(0, false), Waiting::Backoff(0, true), Waiting::Syncing(0), Waiting::Stopped];
    let names: std::collections::BTreeSet<&str> = holds.iter().chain(&others).map(|w| w.name()).collect();
    assert_eq!(names.len(), holds.len() + others.len(), "{names:?}");
}

fn events() -> impl Strategy<Value = Vec<(i64, Event)>> {
    let network = prop_oneof![Just(Network::None), Just(Network::Metered), Just(Network::Unmetered)];
    let event = prop_oneof![
        1 => Just(Event::Started),
        1 => Just(Event::Resumed),
        1 => any::<bool>().prop_map(|high_priority| Event::LocalWrite { high_priority }),
        1 => Just(Event::Demand),
        1 => Just(Event::Wake),
        1 => (-10_000..900_000i64).prop_map(|until_ms| Event::Window { until_ms }),
        4 => Just(Event::TimerFired),
        3 => Just(Event::SyncSucceeded),
        3 => proptest::option::of(any::<i64>()).prop_map(|retry_after_ms| Event::SyncFailed { retry_after_ms }),
        2 => network.prop_map(Event::Network),
        1 => any::<bool>().prop_map(|low| Event::Battery { low }),
        1 => Just(Event::StreamUp),
        1 => Just(Event::StreamDown),
    ];
    proptest::collection::vec((0..400_000i64, event), 1..80)
}

fn machine_of(seed: u64) -> Machine {
    let mut random = seed;
    Machine::new(move || {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        random >> 11
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever happens in whatever order: a machine that waits has its timer set and no later than it may be, a machine that
    /// syncs has said so once, one stream is open at a time, and left alone with a network it syncs again when its timer says.
    #[test]
    fn every_waiting_state_has_a_timer(events in events(), seed: u64) {
        let mut machine = machine_of(seed);
        let (mut now, mut set, mut running, mut streaming) = (0, None, false, false);
        for (later, event) in events {
            now += later;
            match event {
                Event::SyncSucceeded | Event::SyncFailed { .. } => running = false,
                Event::StreamDown => streaming = false,
                Event::StreamUp => streaming = true,
                _ => {}
            }
            for action in machine.handle(now, event) {
                match action {
                    Action::StartSync => {
                        prop_assert!(!running, "two syncs at a time");
                        running = true;
                    }
                    Action::SetTimer(at) => set = Some(at),
                    Action::OpenStream => {
                        prop_assert!(!streaming, "two streams at a time");
                        streaming = true;
                    }
                }
            }
            let most = match machine.waiting() {
                Waiting::Idle(_) | Waiting::Gathering(_) | Waiting::Held(..) => SCHEDULE_MS,
                Waiting::Backoff(_, false) => BACKOFF_MS_MAX,
                Waiting::Backoff(_, true) => RETRY_AFTER_MS_MAX + BACKOFF_MS_MAX,
                Waiting::Syncing(_) => {
                    prop_assert!(running);
                    continue;
                }
                Waiting::New | Waiting::Stopped => { prop_assert!(false, "no event leads here"); 0 }
            };
            let at = machine.waiting().timer();
            prop_assert!(at.is_some() && at == set && at <= Some(now + most), "{:?} {set:?} at {now}", machine.waiting());
        }
        if !running {
            let at = set.unwrap_or(now).max(now);
            machine.handle(at, Event::Battery { low: false });
            machine.handle(at, Event::Network(Network::Unmetered));
            if !matches!(machine.waiting(), Waiting::Syncing(_)) {
                let at = machine.waiting().timer().unwrap_or(at);
                prop_assert_eq!(machine.handle(at, Event::TimerFired), START.to_vec());
            }
        }
    }

    /// How long it takes to be back is the backoff's arithmetic and nothing else: the n-th try is at the sum of what each failed
    /// one took and of its jitter, drawn from 1 ms to min(1 s · 2^n, 5 min); writes and wakes in between change nothing.
    #[test]
    fn tries_come_when_the_arithmetic_says(took in proptest::collection::vec((0..30_000i64, any::<u64>(), proptest::option::of(0..100_000i64), any::<bool>()), 1..24)) {
        let drawn = Arc::new(AtomicU64::new(0));
        let next = drawn.clone();
        let mut machine = Machine::new(move || next.load(SeqCst));
        prop_assert_eq!(machine.handle(0, Event::Started), START.to_vec());
        let mut now = 0;
        for (n, (ms, random, asked, noise)) in took.iter().enumerate() {
            drawn.store(*random, SeqCst);
            let most = [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000].get(n).copied().unwrap_or(300_000);
            let expected = now + ms + asked.unwrap_or(0) + 1 + (random % most) as i64;
            let actions = machine.handle(now + ms, Event::SyncFailed { retry_after_ms: *asked });
            prop_assert_eq!(actions, timer(expected).to_vec());
            if *noise {
                for event in [HIGH, LOW, Event::Wake, Event::StreamDown] {
                    prop_assert_eq!(machine.handle(now + ms, event), timer(expected).to_vec());
                }
            }
            prop_assert_eq!(machine.handle(expected - 1, Event::TimerFired), timer(expected).to_vec());
            prop_assert_eq!(machine.handle(expected, Event::TimerFired), START.to_vec());
            now = expected;
        }
        // And a success begins anew.
        machine.handle(now, Event::SyncSucceeded);
        machine.handle(now, Event::Wake);
        drawn.store(u64::MAX, SeqCst);
        prop_assert_eq!(machine.handle(now, FAILED), timer(now + 1 + (u64::MAX % 1_000) as i64).to_vec());
    }

    /// Stopped is stopped.
    #[test]
    fn nothing_starts_after_a_stop(events in events()) {
        let mut machine = Machine::new(|| 0);
        machine.handle(0, Event::Stop);
        for (now, event) in events {
            prop_assert_eq!(machine.handle(now, event), NONE.to_vec());
        }
    }
}
