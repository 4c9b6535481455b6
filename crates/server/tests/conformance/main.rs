//! One suite for both stores: the same requests, the same answers, by the same names.

mod bed;
#[path = "../../../cli/tests/cli/postgres.rs"]
#[allow(dead_code)] // what only the black-box tests need
mod postgres_database;
mod servers;
mod several;
mod suite;

/// Names every test once for each store.
macro_rules! on_both_stores {
    ($($from:ident: $($name:ident)*;)*) => {
        mod sqlite {
            $($(#[test] fn $name() { crate::$from::$name(crate::bed::Bed::sqlite()) })*)*
        }
        mod postgres {
            $($(#[test] fn $name() { crate::$from::$name(crate::bed::Bed::postgres()) })*)*
        }
    };
}

on_both_stores! {
    suite:
    a_bundle_is_committed_numbered_and_read_by_another_device
    a_bundle_is_committed_once_however_often_it_comes
    a_gap_and_an_old_attempt_are_told
    each_reason_of_a_refusal_names_its_row_and_nothing_is_committed
    a_parent_that_rows_still_point_at_is_refused_and_goes_with_its_children
    rows_that_swap_unique_values_are_committed
    an_integer_key_is_never_given_to_two_things
    a_row_in_part_is_asked_for_whole
    two_devices_edits_of_one_row_both_survive
    a_deletion_leaves_a_tombstone_and_an_unseen_edit_brings_the_row_back
    pages_miss_nothing_while_others_commit
    the_digest_is_the_sum_of_the_live_rows
    another_past_is_told_before_anything_is_looked_at
    changes_come_in_whole_bundles
    what_any_sql_client_writes_reaches_devices
    what_business_triggers_and_cascades_do_belongs_to_the_bundle
    a_scope_of_somebody_else_answers_like_one_that_is_not_there
    a_counter_adds_up_and_a_max_never_goes_down
    an_edit_of_an_invoice_that_was_begun_on_another_version_is_refused
    what_loses_against_a_concurrent_write_is_told_to_every_device
    an_app_that_is_older_than_demanded_is_refused_and_nothing_of_its_push_is_looked_at
    a_collected_tombstone_is_a_gravestone_and_stays_one
    a_row_that_is_collected_while_a_device_hydrates_does_not_stay_there;
    several:
    halves_of_a_move_are_committed_both_or_neither
    what_a_sql_client_wrote_is_told_although_a_move_is_held_back
    a_deletion_does_not_take_along_what_its_device_has_not_seen
    a_deletion_does_not_take_along_what_a_sql_client_has_just_put_below;
}
