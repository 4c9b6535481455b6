//! Histories from fixed seeds, and the seeds that failed once.

use syncline_sim::fault::Faults;
use syncline_sim::run::play;
use syncline_sim::world::Options;

/// Seeds that every run of the tests plays: about a minute on one core.
const SEEDS: u64 = 300;

fn check(seed: u64, options: &Options) {
    if let Some(why) = play(seed, options).failure {
        panic!("seed {seed}: {why}");
    }
}

fn seed_that_failed(seed: u64) {
    check(seed, &Options { policies: 0, ..Options::default() });
}

fn seed_that_failed_with(seed: u64, faults: &str) {
    check(seed, &Options { faults: Faults::parse(faults).unwrap(), policies: 0, ..Options::default() });
}

fn seed_that_failed_with_policies(seed: u64) {
    check(seed, &Options { policies: 100, ..Options::default() });
}

#[test]
fn everything_converges_and_nothing_is_lost_whatever_goes_wrong() {
    for seed in 1..=SEEDS {
        check(seed, &Options::default());
    }
}

#[test]
fn without_faults_everything_converges_too() {
    let options = Options { faults: Faults::default(), ..Options::default() };
    for seed in 1..=20 {
        check(seed, &options);
    }
}

#[test]
fn a_history_is_the_same_on_databases_that_others_left() {
    let hash = |seed| play(seed, &Options::default()).hash;
    for seed in 600..640 {
        // A thread of its own begins with nothing that anybody left.
        let fresh = std::thread::spawn(move || hash(seed)).join().unwrap();
        assert_eq!(hash(seed), fresh, "seed {seed}");
    }
}

#[test]
fn one_seed_is_one_history() {
    for seed in [2, 33, 444, 5555] {
        let (a, b) = (play(seed, &Options::default()), play(seed, &Options { trace: true, ..Options::default() }));
        assert_eq!(a.hash, b.hash, "seed {seed} went two ways");
        assert_ne!(a.hash, play(seed + 1, &Options::default()).hash);
    }
}

#[test]
fn what_a_resync_does_not_bring_may_be_our_own() {
    seed_that_failed(10);
}

#[test]
fn dating_anew_absorbs_first() {
    seed_that_failed(38);
    seed_that_failed(102);
}

#[test]
fn dating_anew_keeps_what_values_need_in_the_context() {
    seed_that_failed(25);
    seed_that_failed(2818);
}

#[test]
fn a_plain_insert_or_replace_at_the_authority_displaces() {
    seed_that_failed(7468);
    seed_that_failed(7752);
}

#[test]
fn a_rebuilt_table_is_compared_in_all_columns() {
    seed_that_failed_with(200, "rebuild,crash-device,delete");
    seed_that_failed_with(18, "rebuild,crash-device,delete");
}

#[test]
fn a_child_that_is_left_out_already_is_not_blamed_again() {
    seed_that_failed(233126370559);
}

#[test]
fn a_row_replaced_and_deleted_within_one_absorb_keeps_its_last_values() {
    seed_that_failed(233126390247);
    seed_that_failed(233126400621);
}

#[test]
fn what_a_commit_wrote_and_a_cascade_deleted_is_nobodys_write() {
    seed_that_failed(2475);
}

#[test]
fn collected_tombstones_and_rows_dated_anew_are_what_the_ledger_says() {
    for seed in [233126374609, 233126399542, 233126406084, 233126390105, 233126403256, 233126409001, 233126409059] {
        seed_that_failed(seed);
    }
}

#[test]
fn what_was_dated_anew_counts_in_the_life_and_by_the_rule_that_it_was_written_under() {
    for seed in [1503, 482516114365, 674264906084] {
        check(seed, &Options::default());
    }
}

#[test]
fn rows_that_stay_behind_are_not_acknowledged_with_what_went_around_them() {
    for seed in [265, 337, 926, 2213] {
        check(seed, &Options::default());
    }
}

#[test]
fn whoever_dates_its_writes_anew_ends_the_other_processes_writers_too() {
    check(674264911278, &Options::default());
}

#[test]
fn the_elements_of_a_set_keep_their_order_when_they_are_dated_anew() {
    check(34736035473063, &Options::default());
}

#[test]
fn a_first_hydration_that_left_out_what_was_just_sent_does_not_end_a_resync() {
    check(34736035474416, &Options::default());
}

#[test]
fn a_row_that_or_replace_deleted_first_is_remembered_as_it_was() {
    check(34736035470802, &Options::default());
}

#[test]
fn a_row_that_was_set_aside_says_nothing_of_another_row_of_the_same_instant() {
    for seed in [34814959846818, 5829399608265] {
        check(seed, &Options::default());
    }
}

#[test]
fn what_a_restored_authority_never_heard_of_is_not_merged_into_a_row_that_rejects() {
    for seed in [22219902610585, 30466650721419] {
        check(seed, &Options::default());
    }
}

#[test]
fn an_edit_of_a_row_that_then_stood_in_another_s_way_keeps_its_own_stamp() {
    for seed in [24283860872831, 24283860874434] {
        check(seed, &Options::default());
    }
}

#[test]
fn children_of_a_row_that_gave_way_and_came_back_come_back_with_it() {
    check(24283860874295, &Options::default());
}

#[test]
fn what_a_foreign_key_action_changed_before_its_row_came_up_in_the_same_bundle_is_a_write() {
    check(23869844962740, &Options::default());
}

#[test]
fn what_a_forgotten_life_had_counted_is_not_counted_in_the_next() {
    seed_that_failed_with_policies(1073491987168);
}

#[test]
fn a_new_life_need_not_know_of_a_forgotten_one() {
    seed_that_failed_with_policies(429624727472);
}

#[test]
fn what_a_cascade_took_before_its_own_deletion_came_up_in_the_bundle_keeps_its_values() {
    seed_that_failed_with_policies(1073492009802);
}

#[test]
fn a_gravestone_that_is_numbered_again_goes_whole() {
    seed_that_failed_with_policies(1073492106873);
}

#[test]
fn the_key_of_a_collected_row_of_a_table_that_rejects_may_live_again() {
    seed_that_failed_with_policies(490406684160);
}

#[test]
fn a_text_that_is_replaced_is_edited_from_what_it_was() {
    seed_that_failed_with_policies(354691835074);
}

#[test]
fn a_row_that_is_collected_while_a_device_hydrates_does_not_stay_there() {
    seed_that_failed_with_policies(513425058129);
}

#[test]
fn an_edit_of_a_collected_row_of_a_table_that_rejects_is_somebodys_to_decide() {
    seed_that_failed_with_policies(513425064346);
}

#[test]
fn of_a_row_that_comes_twice_in_a_delta_only_the_last_counts() {
    seed_that_failed_with_policies(429624877090);
}
