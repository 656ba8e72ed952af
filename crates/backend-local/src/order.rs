//! In which order the pages of an area are looked for, and what follows from it.

use std::ops::Range;

/// The most pages of one read-ahead.
pub(crate) const WINDOW: u64 = 512;
/// The fewest.
const FIRST_WINDOW: u64 = 16;
/// How many windows are read ahead at once.
pub(crate) const DEPTH: u64 = 12;
/// The most pages that are handed to the kernel at once.
const HANDED: u64 = 8192;

/// What is known of the order. Pages are counted from the area's start.
#[derive(Debug)]
pub(crate) struct Order {
    /// The page that comes next, if they are looked for in order.
    next: u64,
    /// Faults in a row that came in order.
    streak: u32,
    /// The page that was looked for last.
    last: u64,
    /// Where read-ahead has got to. The first page of each window is left unmapped, so that
    /// it is looked for.
    ahead: u64,
}

impl Default for Order {
    fn default() -> Order {
        Order { next: u64::MAX, streak: 0, last: 0, ahead: 0 }
    }
}

impl Order {
    /// Page `at` is looked for: whether in order.
    pub(crate) fn look(&mut self, at: u64) -> bool {
        let in_order = at == self.next || (self.last < at && at <= self.ahead);
        if in_order {
            self.streak += 1;
        } else {
            (self.streak, self.ahead) = (0, 0);
        }
        self.last = at;
        in_order
    }

    /// All pages up to `end` are mapped now.
    pub(crate) fn mapped_to(&mut self, end: u64) {
        self.next = end;
    }

    /// How many pages to hand to the kernel, if they are all in memory.
    pub(crate) fn to_hand(&self) -> u64 {
        if self.streak < 2 { 0 } else { (64 << self.streak.min(7)).min(HANDED) }
    }

    /// The windows to read ahead of page `at`, which was looked for in order, each of at most
    /// `most` pages, of an area that begins at page `first` of the device.
    pub(crate) fn windows(&mut self, at: u64, first: u64, most: u64) -> Vec<Range<u64>> {
        let window = (FIRST_WINDOW << self.streak.min(8)).min(most);
        // Two in a row may be chance.
        if window < FIRST_WINDOW || self.streak < 2 {
            return Vec::new();
        }
        let mut from = self.ahead.max(at + 1);
        let mut windows = Vec::new();
        while from < at + 1 + DEPTH * window {
            let end = window_end(from, first, window);
            windows.push(from..end);
            from = end;
        }
        self.ahead = self.ahead.max(from);
        windows
    }
}

/// The end of a window that begins at page `from` of an area: the largest ones end where large
/// pages do, if the area's memory is laid like the device's.
pub(crate) fn window_end(from: u64, first: u64, window: u64) -> u64 {
    if window < WINDOW { from + window } else { from + WINDOW - (first + from) % WINDOW }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_follow_one_another_and_grow() {
        let mut order = Order::default();
        assert!(!order.look(0));
        order.mapped_to(1);
        assert!(order.look(1));
        assert!(order.windows(1, 0, WINDOW).is_empty(), "two may be chance");
        order.mapped_to(2);
        assert!(order.look(2));
        let windows = order.windows(2, 0, WINDOW);
        assert_eq!(windows[0].start, 3);
        assert!(windows.windows(2).all(|pair| pair[0].end == pair[1].start));
        let end = windows.last().unwrap().end;
        assert!(order.look(3), "the first page of a window");
        let windows = order.windows(3, 0, WINDOW);
        assert_eq!(windows[0].start, end);
        assert!(windows[0].end - windows[0].start > 32);
        assert!(order.windows(4, 0, FIRST_WINDOW - 1).is_empty(), "hardly any room");
        assert!(!order.look(9999));
        assert_eq!(order.to_hand(), 0);
        assert_eq!(window_end(700, 100, WINDOW), 2 * WINDOW - 100);
        assert_eq!(window_end(2 * WINDOW - 100, 100, WINDOW), 3 * WINDOW - 100);
        assert_eq!(window_end(700, 100, 64), 764);
    }
}
