//! Bugs planted on purpose: each leaves one rule out, and the simulator must notice.

use crate::fault::Faults;
use crate::run::play_many;
use crate::world::Options;
use syncline_core::planted;

/// A bug, what it leaves out, and within how many seeds (from 1) it must be found.
pub struct Bug {
    /// Its name, as in `planted::on`.
    pub name: &'static str,
    /// The rule.
    pub rule: &'static str,
    /// The most seeds.
    pub within: u64,
    /// Faults to pick from, where all of them would hide it too long; empty means all.
    pub faults: &'static str,
    /// In how many of a hundred histories columns have policies.
    pub policies: u64,
}

const fn bug(name: &'static str, rule: &'static str, within: u64) -> Bug {
    Bug { name, rule, within, faults: "", policies: 0 }
}

const fn of_policy(name: &'static str, rule: &'static str, within: u64) -> Bug {
    Bug { name, rule, within, faults: "", policies: 100 }
}

/// Those that it finds.
pub const BUGS: &[Bug] = &[
    bug("earlier_stamp_wins", "the later stamp wins", 100),
    bug("context_growth_is_no_change", "grown contexts count as changes (section 3, rule 2)", 2000),
    bug("no_ground", "an insert over a tombstone raises the ground (rule 5)", 2000),
    bug("stamp_below_context", "a new stamp is above all that its row has seen", 500),
    bug("writer_continued", "every opening has a writer of its own", 100),
    bug("apply_without_absorb", "absorb comes first in every transaction that applies", 100),
    bug("capture_not_mended", "dropped triggers are installed anew, and the table compared", 100),
    bug("nonce_ignored", "an acknowledgement counts only with one of our nonces", 500),
    bug("replay_committed_twice", "a bundle commits once", 100),
    bug("future_stamps_taken", "a stamp from the future is refused", 100),
    bug("answer_before_commit", "the authority answers after its commit is durable", 100),
    bug("unequal_not_numbered", "a row that is not as it was sent gets a number", 100),
    bug("confirms_later_edits", "an acknowledgement confirms what was frozen, not later edits", 100),
    bug("pending_ends_by_value", "pending ends by equal states, not values", 100),
    bug("shelved_for_ever", "a shelved row comes back when its obstacle goes", 500),
    bug("cursor_before_rows", "the cursor moves in the transaction that applies", 100),
    bug("columns_from_page", "columns count from the cursor at which the delta began", 100),
    bug("page_skips_a_row", "the next page goes on behind the last row of this one", 100),
    bug("own_left_out_of_pages", "own rows are left out only of an answer that is a whole delta", 500),
    bug("stage_kept_across_histories", "a stage of another past is dropped", 2000),
    bug("push_before_history", "the past is compared before the push is looked at", 2000),
    bug("displaced_unnoticed", "rows displaced through another unique index are noticed", 2000),
    of_policy("counter_adds_twice", "an increment that comes twice counts once", 100),
    of_policy("max_is_the_latest", "the greatest value wins, not the latest", 100),
    of_policy("losing_max_stays", "a table shows what its row states say", 100),
    of_policy("set_never_shrinks", "an element goes where somebody who had seen it took it out", 100),
    of_policy("ask_keeps_the_latest", "concurrent values of `ask` are all kept", 100),
    of_policy("entries_outlive_births", "entries go with the births that they name (rule 5)", 100),
    of_policy("delete_never_wins", "where deletions win, an unseen edit does not revive", 100),
    of_policy("group_split", "columns of a group share one stamp", 100),
    of_policy("reject_merges", "what a device has pending in a `reject` table is kept apart", 100),
    of_policy("reject_takes_all", "`reject` takes an edit only on the latest version", 100),
    of_policy("server_is_lww", "an edit on the authority's latest beats one that did not know it", 100),
    of_policy("held_rows_go", "rows captured together with one of a `hold_bundle` table go together", 100),
    of_policy("ask_settled_silently", "to decide for the value that is shown is a write too", 100),
    of_policy("resolver_unheard", "what an app's resolver makes of a row is written", 100),
    of_policy("losers_forgotten", "a concurrent value that lost is in the journal", 100),
];

/// Those that it has not found in about 2,000 histories each (of the last two, 400). `acked_not_checked`, `confirmations_after_merge`, `unparked_keeps_number`
/// and `parent_stays_dead` need histories that are drawn too seldom, and have the smallest one each in tests/rules.rs; `set_quiet_on_context` needs peers, and has
/// core/tests/policies.rs; `old_attempt_taken` and `partial_taken`
/// leave out what the authority demands of a device that does not keep to the rules, and fail tests of server/tests (hostile/main.rs, conformance/suite.rs). What the other three
/// leave out nothing reaches while a device learns rows from its authority alone.
pub const RARE: &[Bug] = &[
    bug("partial_taken", "a partial row is refused where there is none (rule 1)", 40_000),
    bug("old_attempt_taken", "an attempt below one already seen is refused", 40_000),
    bug("confirmed_by_answer", "confirmed is what the cursor has passed", 40_000),
    bug("confirmations_after_merge", "confirmations are passed before the merge", 40_000),
    bug("merged_state_not_pending", "what differs from the authority after a merge is pending", 40_000),
    bug("unparked_keeps_number", "a row that leaves parking gets a new number", 40_000),
    bug("resync_takes_pending", "a resync keeps what is pending", 40_000),
    bug("acked_not_checked", "acknowledged bundles beyond the cursor are compared too", 40_000),
    of_policy("set_quiet_on_context", "where a context grew, sets and `ask` count as changed (rule 2)", 4000),
    of_policy("parent_stays_dead", "a child whose parent was deleted unseen brings it back, or goes along (rule 4)", 2000),
];

/// Returns the first seed from 1, of at most `most`, that finds a bug, and what it found.
pub fn hunt(bug: &Bug, most: u64, threads: usize) -> Option<(u64, String)> {
    let mut options = Options { policies: bug.policies, ..Options::default() };
    if !bug.faults.is_empty() {
        options.faults = Faults::parse(bug.faults).unwrap_or_default();
    }
    // In steps, so that the number does not depend on how fast each thread is.
    let step = 20 * threads as u64;
    let mut first = 1;
    while first <= most {
        let tally = play_many(first, step.min(most + 1 - first), &options, threads, usize::MAX, || planted::plant(bug.name));
        if let Some((seed, why)) = tally.failed.into_iter().next() {
            return Some((seed, why));
        }
        first += step;
    }
    None
}
