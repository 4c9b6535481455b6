//! Text in which concurrent edits all survive: a sequence CRDT (`yrs`), made from a seed and the edits only when it is needed.
//!
//! What is kept is the text that a row began with and, per edit, the update that it made. The seed is inserted by one fixed
//! client everywhere, each edit by a client of its own (a hash of its stamp): so the same seed and edits are the same text on
//! every machine, no text doubles, and no client number is ever used for two different things. Nothing here is random and
//! nothing reads a clock: comparing two texts is bounded in work, not in time.

use crate::ids::Stamp;
use similar::{Algorithm, DiffOp, capture_diff_slices};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use yrs::updates::decoder::Decode;
use yrs::{ClientID, Doc, GetString, OffsetKind, Options, Text, TextRef, Transact, Update};

/// A text longer than this is not merged by its words any more: from the edit that makes it so the latest one wins whole, in
/// the same life of its row, and those that lose go to the journal.
pub const TEXT_BYTES_MAX: usize = 128 << 10;
/// The same, of all edits of one text together.
pub const EDITS_BYTES_MAX: usize = 384 << 10;
/// The most comparisons of two pieces that finding an edit may take.
const WORK_MAX: usize = 1 << 23;

/// One edit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edit {
    /// When and by whom.
    pub stamp: Stamp,
    /// What it did, as an update of the CRDT.
    pub update: Vec<u8>,
}

/// The client of the seed.
const SEED: u64 = 1;

fn options(client: u64) -> Options {
    Options {
        client_id: ClientID::new(client),
        guid: "".into(),
        collection_id: None,
        offset_kind: OffsetKind::Bytes,
        skip_gc: true,
        auto_load: false,
        should_load: false,
        cleanup_formatting: false,
    }
}

/// A client number that no other edit has: 52 bits of a hash of the stamp.
fn client_of(stamp: Stamp) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"syncline text client 1");
    hasher.update(&stamp.hlc.0.to_be_bytes());
    hasher.update(&stamp.writer.0);
    let bytes: [u8; 8] = hasher.finalize().as_bytes()[..8].try_into().unwrap_or_default();
    (u64::from_be_bytes(bytes) >> 12).max(2)
}

/// Makes the document of a seed and its edits, in order of their stamps. The order does not matter to what comes out.
fn document(seed: &str, edits: &[Edit], client: u64) -> Option<(Doc, TextRef)> {
    let seeded = Doc::with_options(options(SEED));
    let text = seeded.get_or_insert_text("t");
    let first = {
        let mut tx = seeded.transact_mut();
        if !seed.is_empty() {
            text.insert(&mut tx, 0, seed);
        }
        tx.encode_update_v1()
    };
    let doc = Doc::with_options(options(client));
    let text = doc.get_or_insert_text("t");
    {
        let mut tx = doc.transact_mut();
        tx.apply_update(Update::decode_v1(&first).ok()?).ok()?;
        for edit in edits {
            tx.apply_update(Update::decode_v1(&edit.update).ok()?).ok()?;
        }
    }
    Some((doc, text))
}

/// Returns the text that a seed and its edits come to; `None` if an update is not one. Never panics, whatever a peer sent.
pub fn read(seed: &str, edits: &[Edit]) -> Option<String> {
    if edits.is_empty() {
        return Some(seed.to_owned());
    }
    guarded(|| {
        let (doc, text) = document(seed, edits, SEED)?;
        let shown = text.get_string(&doc.transact());
        Some(shown)
    })
}

/// Returns the edit that turns the text of a seed and edits into `new`; `None` if nothing differs or an update is none.
pub fn edit(seed: &str, edits: &[Edit], new: &str, stamp: Stamp) -> Option<Edit> {
    guarded(|| {
        let (doc, text) = document(seed, edits, client_of(stamp))?;
        let old = text.get_string(&doc.transact());
        let changes = changes(&old, new);
        if changes.is_empty() {
            return None;
        }
        let mut tx = doc.transact_mut();
        for (range, with) in changes.into_iter().rev() {
            if !range.is_empty() {
                text.remove_range(&mut tx, range.start as u32, range.len() as u32);
            }
            if !with.is_empty() {
                text.insert(&mut tx, range.start as u32, with);
            }
        }
        let update = tx.encode_update_v1();
        Some(Edit { stamp, update })
    })
}

/// The CRDT is somebody else's code and its input may be a peer's: a panic in it is a bad update, not the end of the app.
fn guarded<T>(work: impl FnOnce() -> Option<T>) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok().flatten()
}

/// Finds what to replace in `old`, by byte ranges in order, to get `new`: whole words. Where comparing all words would take too much
/// work, passages are compared first, and then the words of those that differ.
pub fn changes<'n>(old: &str, new: &'n str) -> Vec<(Range<usize>, &'n str)> {
    if let Some(found) = compare(words(old), words(new)) {
        return found.into_iter().map(|(o, n)| (o, &new[n])).collect();
    }
    let coarse = compare(passages(old), passages(new)).unwrap_or_else(|| vec![(0..old.len(), 0..new.len())]);
    let mut out = Vec::new();
    for (o, n) in coarse {
        match compare(words(&old[o.clone()]), words(&new[n.clone()])) {
            Some(fine) => out.extend(fine.into_iter().map(|(x, y)| (o.start + x.start..o.start + x.end, &new[n.start + y.start..n.start + y.end]))),
            None => out.push((o, &new[n])),
        }
    }
    out
}

/// Compares two texts piece by piece; returns by bytes what of the one became what of the other. `None` if that is too much work.
fn compare(a: Vec<&str>, b: Vec<&str>) -> Option<Vec<Change>> {
    let same = |x: &mut dyn Iterator<Item = (&&str, &&str)>| x.take_while(|(p, q)| p == q).count();
    let head = same(&mut a.iter().zip(&b));
    let tail = same(&mut a[head..].iter().rev().zip(b[head..].iter().rev()));
    let (x, y) = (&a[head..a.len() - tail], &b[head..b.len() - tail]);
    if x.len().saturating_mul(y.len()) > WORK_MAX {
        return None;
    }
    let changed = capture_diff_slices(Algorithm::Myers, x, y).into_iter().filter(|op| !matches!(op, DiffOp::Equal { .. }));
    let shifted = |r: Range<usize>| r.start + head..r.end + head;
    let mut changed: Vec<Change> = changed.map(|op| (shifted(op.old_range()), shifted(op.new_range()))).collect();
    slide(&a, &b, &mut changed);
    let (starts_a, starts_b) = (starts(&a), starts(&b));
    Some(changed.into_iter().map(|(o, n)| (starts_a[o.start]..starts_a[o.end], starts_b[n.start]..starts_b[n.end])).collect())
}

/// What became of what: ranges of the old text and of the new.
type Change = (Range<usize>, Range<usize>);

/// Moves what is only inserted or only deleted as far to the end as it may go: a word goes with the space after it and not with the one
/// before. If one took the one and another the other, two words would meet without any.
fn slide(a: &[&str], b: &[&str], changes: &mut [Change]) {
    let mut ends = (a.len(), b.len());
    for (o, n) in changes.iter_mut().rev() {
        let begins = |o: &Range<usize>, n: &Range<usize>| match (o.is_empty(), n.is_empty()) {
            (true, false) => n.end < ends.1 && b[n.start] == b[n.end],
            (false, true) => o.end < ends.0 && a[o.start] == a[o.end],
            _ => false,
        };
        while begins(o, n) {
            (*o, *n) = (o.start + 1..o.end + 1, n.start + 1..n.end + 1);
        }
        ends = (o.start, n.start);
    }
}

/// Where each piece begins, and where the last one ends.
fn starts(pieces: &[&str]) -> Vec<usize> {
    let mut out = vec![0];
    for p in pieces {
        out.push(out[out.len() - 1] + p.len());
    }
    out
}

/// Splits into words, each run of white space by its characters, and every other character.
fn words(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut from = 0;
    let mut in_word = false;
    for (i, c) in text.char_indices() {
        let word = c.is_alphanumeric() || c == '_';
        if i > from && !(word && in_word) {
            out.push(&text[from..i]);
            from = i;
        }
        in_word = word;
    }
    if from < text.len() {
        out.push(&text[from..]);
    }
    out
}

/// Splits into passages of some sixteen words each, which end at a line's end or after a word that says so itself: an insertion
/// changes the passage that it is in and not where the next ones begin.
fn passages(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let (mut from, mut at) = (0, 0);
    for word in words(text) {
        at += word.len();
        // FNV-1a: any hash that is the same everywhere will do, and words are short.
        let hash = word.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
        if word == "\n" || (word != " " && hash >> 28 == 0) {
            out.push(&text[from..at]);
            from = at;
        }
    }
    if from < text.len() {
        out.push(&text[from..]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Hlc, WriterId};

    fn stamp(n: u64) -> Stamp {
        Stamp { hlc: Hlc(n), writer: WriterId([n as u8; 16]) }
    }

    #[test]
    fn what_is_found_turns_one_text_into_the_other() {
        let long: String = (0..9_000).map(|i| format!("{i} ")).collect();
        let other: String = (0..9_000).rev().map(|i| format!("{i} ")).collect();
        for (a, b) in [("", "x"), ("x", ""), ("the old cat", "the new cat"), ("äöü ß", "äöu ßß"), ("a\nb\nc", "b\nc\nd"), (long.as_str(), other.as_str())]
        {
            let mut made = a.to_owned();
            for (range, with) in changes(a, b).into_iter().rev() {
                made.replace_range(range, with);
            }
            assert_eq!(made, b);
        }
        assert_eq!(changes("the old cat", "the new cat"), [(4..7, "new")]);
    }

    #[test]
    fn concurrent_edits_both_survive_and_nothing_doubles() {
        let seed = "milk, eggs and bread";
        let a = edit(seed, &[], "fresh milk, eggs and bread", stamp(5)).unwrap();
        let b = edit(seed, &[], "milk, eggs and rye bread", stamp(6)).unwrap();
        let both = read(seed, &[a.clone(), b.clone()]).unwrap();
        assert_eq!(both, "fresh milk, eggs and rye bread");
        assert_eq!(read(seed, &[b, a]).unwrap(), both);
    }

    #[test]
    fn words_of_two_never_meet_without_a_space() {
        // One writes before a word that the other strikes out, at the end of what else it changes.
        let seed = "a b c d e f g h";
        for word in ["d", "e"] {
            let struck = seed.replace(&format!("{word} "), "").replace("a b", "a x b").replace("g h", "g y h");
            let one = edit(seed, &[], &struck, stamp(5)).unwrap();
            let two = edit(seed, &[], &seed.replace(word, &format!("z {word}")), stamp(6)).unwrap();
            let both: Vec<String> = read(seed, &[one, two]).unwrap().split(' ').map(str::to_owned).collect();
            let expected: Vec<&str> =
                ["a", "x", "b", "c", "d", "e", "f", "g", "y", "h"].into_iter().flat_map(|w| if w == word { vec!["z"] } else { vec![w] }).collect();
            assert_eq!(both, expected);
        }
    }

    #[test]
    fn edits_far_apart_in_a_long_line_touch_nothing_between() {
        let seed: String = (0..9_000).map(|i| format!("w{i} ")).collect();
        let outer = edit(&seed, &[], &format!("first {}", seed.trim_end()), stamp(5)).unwrap();
        let inner = edit(&seed, &[], &seed.replace(" w4500 ", " middle "), stamp(6)).unwrap();
        assert_eq!(read(&seed, &[outer, inner]).unwrap(), format!("first {}", seed.trim_end()).replace(" w4500 ", " middle "));
    }

    #[test]
    fn an_update_that_is_none_is_no_panic() {
        for bytes in [vec![], vec![1], vec![0xff; 40], vec![1, 1, 5, 0, 4, 1, 1, 116]] {
            let _ = read("seed", &[Edit { stamp: stamp(1), update: bytes }]);
        }
    }
}
