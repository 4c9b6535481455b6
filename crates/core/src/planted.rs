//! Switches that leave one rule out, so that the simulator can prove that it would notice.
//!
//! Without the feature `planted`, `on` is a constant `false` and costs nothing.

/// Whether the named bug is planted in this thread.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub const fn on(_name: &str) -> bool {
    false
}

#[cfg(feature = "planted")]
thread_local! {
    static BUG: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
}

/// Whether the named bug is planted in this thread.
#[cfg(feature = "planted")]
pub fn on(name: &str) -> bool {
    BUG.with(|bug| *bug.borrow() == name)
}

/// Plants a bug in this thread; the empty name plants none.
#[cfg(feature = "planted")]
pub fn plant(name: &str) {
    BUG.with(|bug| *bug.borrow_mut() = name.to_owned());
}
