//! A run of 64 pages of the page cache: what is known of each, under one lock.

use std::ops::Range;

use crate::{
    core::Core,
    primitives::{Condvar, Mutex, MutexGuard},
};

/// Pages of a block.
pub(crate) const PAGES: u64 = 64;

/// A set of pages of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pages(u64);

impl Pages {
    pub(crate) const NONE: Pages = Pages(0);
    pub(crate) const ALL: Pages = Pages(u64::MAX);

    /// The pages of the device that are in block `index` and in `pages`.
    pub(crate) fn in_block(index: u64, pages: &Range<u64>) -> Pages {
        let first = index * PAGES;
        let start = pages.start.clamp(first, first + PAGES) - first;
        let end = pages.end.clamp(first, first + PAGES) - first;
        match end.saturating_sub(start) {
            0 => Pages::NONE,
            PAGES => Pages(u64::MAX),
            count => Pages(((1 << count) - 1) << start),
        }
    }

    pub(crate) fn one(page: u64) -> Pages {
        Pages(1 << (page % PAGES))
    }

    /// All pages from the first of these to the last.
    pub(crate) fn span(self) -> Pages {
        if self.is_empty() {
            return self;
        }
        Pages((u64::MAX << self.0.trailing_zeros()) & (u64::MAX >> self.0.leading_zeros()))
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn count(self) -> u64 {
        u64::from(self.0.count_ones())
    }

    pub(crate) fn has(self, others: Pages) -> bool {
        self.0 & others.0 == others.0
    }

    pub(crate) fn and(self, others: Pages) -> Pages {
        Pages(self.0 & others.0)
    }

    pub(crate) fn without(self, others: Pages) -> Pages {
        Pages(self.0 & !others.0)
    }

    pub(crate) fn add(&mut self, others: Pages) {
        self.0 |= others.0;
    }

    pub(crate) fn remove(&mut self, others: Pages) {
        self.0 &= !others.0;
    }

    /// The runs of neighbours, as pages of the device.
    pub(crate) fn runs(self, index: u64) -> impl Iterator<Item = Range<u64>> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            (rest != 0).then(|| {
                let start = rest.trailing_zeros();
                let len = (rest >> start).trailing_ones();
                let run = if len == 64 { u64::MAX } else { ((1 << len) - 1) << start };
                rest &= !run;
                let first = index * PAGES + u64::from(start);
                first..first + u64::from(len)
            })
        })
    }
}

/// What is known of a block's pages.
///
/// Who sets a page busy alone changes what is known of it, and what is in the page cache's
/// file, until it is no longer busy.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// In the page cache, with its content.
    pub(crate) resident: Pages,
    /// Of the resident ones, those that are the only map's own memory, and not in the file: see
    /// `own`.
    pub(crate) own: Pages,
    /// All are own, and in large memory with seven more blocks: see `own`.
    pub(crate) is_moved: bool,
    /// Being filled, written back or dropped.
    pub(crate) busy: Pages,
    /// The pages that threads move which wait until others are no longer busy.
    stuck: u64,
    /// Written, or writable, in a shared map since it was last written back.
    pub(crate) dirty: Pages,
    /// Whether it was looked for since eviction last passed.
    pub(crate) referenced: bool,
    /// Whether eviction will pass.
    pub(crate) queued: bool,
}

impl State {
    /// Whether there is nothing to know.
    pub(crate) fn is_blank(&self) -> bool {
        let none = [self.resident, self.busy, self.dirty].iter().all(|pages| pages.is_empty());
        none && !self.queued
    }
}

/// A block.
#[derive(Debug, Default)]
pub(crate) struct Block {
    state: Mutex<State>,
    changed: Condvar,
}

impl Block {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Locks it once none of `pages` is busy.
    pub(crate) fn settled(&self, core: &Core, pages: Pages) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        while !state.busy.and(pages).is_empty() {
            let moved = core.moved();
            if moved > 0 {
                state.stuck += moved;
                core.stick(moved);
            }
            self.changed.wait(&mut state);
        }
        state
    }

    /// The pages are busy no more.
    pub(crate) fn finish(&self, core: &Core, mut state: MutexGuard<'_, State>, pages: Pages) {
        state.busy.remove(pages);
        let stuck = std::mem::take(&mut state.stuck);
        if stuck > 0 {
            core.unstick(stuck);
        }
        drop(state);
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_the_pages_that_were_put_in() {
        let mut pages = Pages::in_block(2, &(0..131));
        assert_eq!(pages.count(), 3);
        pages.add(Pages::in_block(2, &(140..141)));
        pages.add(Pages::in_block(2, &(190..1000)));
        assert_eq!(pages.runs(2).collect::<Vec<_>>(), [128..131, 140..141, 190..192]);
        assert_eq!(pages.span(), Pages::in_block(2, &(128..192)));
        assert_eq!(Pages::one(190).span(), Pages::one(190));
        assert_eq!(Pages::NONE.span(), Pages::NONE);
        assert_eq!(Pages::in_block(3, &(0..192)), Pages::NONE);
        let all = Pages::in_block(3, &(0..u64::MAX));
        let only = |pages: Pages, run| pages.runs(3).eq(std::iter::once(run));
        assert!(only(all, 192..256));
        assert!(only(all.without(Pages::one(192)), 193..256));
        assert!(all.has(Pages::one(200)));
    }
}
