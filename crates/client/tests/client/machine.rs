//! The loop's machine, by rule and by property.

use proptest::prelude::*;
use syncline::machine::{Action, BACKOFF_MS, BACKOFF_MS_MAX, BATCH_MS, Event, Machine, RETRY_AFTER_MS_MAX, SCHEDULE_MS, Waiting};

const HIGH: Event = Event::LocalWrite { high_priority: true };
const LOW: Event = Event::LocalWrite { high_priority: false };
const FAILED: Event = Event::SyncFailed { retry_after_ms: None };

/// The greatest jitter that a backoff of `most` has.
fn greatest(most: i64) -> impl FnMut() -> u64 + Send {
    move || most as u64 - 1
}

fn idle() -> Machine {
    let mut machine = Machine::new(greatest(BACKOFF_MS));
    assert_eq!(machine.handle(0, Event::Started), [Action::StartSync]);
    assert_eq!(machine.handle(0, Event::SyncSucceeded), [Action::SetTimer(SCHEDULE_MS)]);
    machine
}

#[test]
fn writes_are_gathered_and_important_ones_are_not() {
    let mut machine = idle();
    assert_eq!(machine.handle(1000, LOW), [Action::SetTimer(1000 + BATCH_MS)]);
    assert_eq!(machine.handle(1500, LOW), [Action::SetTimer(1000 + BATCH_MS)]);
    assert_eq!(machine.handle(2000, Event::TimerFired), [Action::SetTimer(1000 + BATCH_MS)]);
    assert_eq!(machine.handle(3000, Event::TimerFired), [Action::StartSync]);
    assert_eq!(idle().handle(1, HIGH), [Action::StartSync]);
    assert_eq!(idle().handle(1, Event::Wake), [Action::StartSync]);
    assert_eq!(idle().handle(1, Event::Demand), [Action::StartSync]);
}

#[test]
fn what_comes_during_a_sync_is_not_forgotten() {
    for (event, then) in
        [(HIGH, Action::StartSync), (LOW, Action::SetTimer(5 + BATCH_MS)), (Event::Wake, Action::StartSync), (Event::Demand, Action::StartSync)]
    {
        let mut machine = idle();
        machine.handle(1, Event::Demand);
        assert_eq!(machine.handle(2, event), [Action::Nothing]);
        assert_eq!(machine.handle(5, Event::SyncSucceeded), [then], "{event:?}");
    }
}

#[test]
fn backoff_doubles_to_five_minutes_and_success_resets_it() {
    let mut machine = Machine::new(|| u64::MAX);
    machine.handle(0, Event::Started);
    let mut waits = vec![];
    for _ in 0..12 {
        machine.handle(0, FAILED);
        let Waiting::Backoff(until, false) = machine.waiting() else { panic!() };
        waits.push(until);
        assert_eq!(machine.handle(until, Event::TimerFired), [Action::StartSync]);
    }
    assert!(waits.iter().enumerate().all(|(n, wait)| (1..=(BACKOFF_MS << n).min(BACKOFF_MS_MAX)).contains(wait)), "{waits:?}");
    machine.handle(0, Event::SyncSucceeded);
    machine.handle(0, Event::Demand);
    machine.handle(0, FAILED);
    assert!(matches!(machine.waiting(), Waiting::Backoff(until, _) if until <= BACKOFF_MS));
}

#[test]
fn only_the_network_and_a_person_end_a_backoff() {
    let backing_off = || {
        let mut machine = idle();
        machine.handle(0, Event::Demand);
        machine.handle(0, FAILED);
        machine
    };
    for event in [HIGH, LOW, Event::Wake] {
        assert_eq!(backing_off().handle(1, event), [Action::SetTimer(BACKOFF_MS)], "{event:?}");
    }
    assert_eq!(backing_off().handle(1, Event::NetworkUp), [Action::StartSync]);
    assert_eq!(backing_off().handle(1, Event::Demand), [Action::StartSync]);
}

#[test]
fn a_server_that_asks_for_time_gets_it() {
    let mut machine = idle();
    machine.handle(0, Event::Demand);
    machine.handle(0, Event::SyncFailed { retry_after_ms: Some(60_000) });
    let Waiting::Backoff(until, true) = machine.waiting() else { panic!() };
    assert!((60_000..=60_000 + BACKOFF_MS).contains(&until));
    assert_eq!(machine.handle(1, Event::NetworkUp), [Action::SetTimer(until)]);
    assert_eq!(machine.handle(1, Event::Demand), [Action::StartSync]);
}

#[test]
fn without_a_network_writes_wait_for_it() {
    let mut machine = idle();
    machine.handle(1, Event::NetworkDown);
    assert_eq!(machine.handle(2, HIGH), [Action::SetTimer(SCHEDULE_MS)]);
    assert_eq!(machine.handle(3, Event::NetworkUp), [Action::StartSync]);
    machine.handle(4, Event::SyncSucceeded);
    assert!(matches!(machine.waiting(), Waiting::Idle(_)));
}

fn events() -> impl Strategy<Value = Vec<(i64, Event)>> {
    let event = prop_oneof![
        1 => Just(Event::Started),
        1 => any::<bool>().prop_map(|high_priority| Event::LocalWrite { high_priority }),
        1 => Just(Event::Demand),
        1 => Just(Event::Wake),
        3 => Just(Event::TimerFired),
        3 => Just(Event::SyncSucceeded),
        3 => proptest::option::of(any::<i64>()).prop_map(|retry_after_ms| Event::SyncFailed { retry_after_ms }),
        1 => Just(Event::NetworkUp),
        1 => Just(Event::NetworkDown),
    ];
    proptest::collection::vec((0..400_000i64, event), 1..80)
}

proptest! {
    /// Whatever happens in whatever order: a machine that waits has its timer set and no later than it may be, a machine that
    /// syncs has said so once, and it is never in both.
    #[test]
    fn every_waiting_state_has_a_timer(events in events(), seed: u64) {
        let mut random = seed;
        let mut machine = Machine::new(move || { random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407); random });
        let (mut now, mut timer, mut running) = (0, None, false);
        for (later, event) in events {
            now += later;
            let ended = matches!(event, Event::SyncSucceeded | Event::SyncFailed { .. });
            if ended {
                running = false;
            }
            for action in machine.handle(now, event) {
                match action {
                    Action::StartSync => {
                        prop_assert!(!running, "two syncs at a time");
                        running = true;
                    }
                    Action::SetTimer(at) => timer = Some(at),
                    Action::Nothing => {}
                }
            }
            match machine.waiting() {
                Waiting::Idle(at) => prop_assert!(timer == Some(at) && at <= now + SCHEDULE_MS),
                Waiting::Backoff(at, _) => prop_assert!(timer == Some(at) && at <= now + RETRY_AFTER_MS_MAX + BACKOFF_MS),
                Waiting::Syncing => prop_assert!(running),
                Waiting::New | Waiting::Stopped => prop_assert!(false, "no event leads here"),
            }
        }
        // And left alone, it syncs again.
        if !running {
            prop_assert_eq!(machine.handle(timer.unwrap_or(now).max(now), Event::TimerFired), vec![Action::StartSync]);
        }
    }

    /// Stopped is stopped.
    #[test]
    fn nothing_starts_after_a_stop(events in events()) {
        let mut machine = Machine::new(|| 0);
        machine.handle(0, Event::Stop);
        for (now, event) in events {
            prop_assert_eq!(machine.handle(now, event), vec![Action::Nothing]);
        }
    }
}
