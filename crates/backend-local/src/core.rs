//! What all mappings of one home share: the userfaultfd, the memory limit, the areas by
//! their addresses.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use devmap_driver::{Errno, PageSize};
use devmap_sys::{span::Span, userfaultfd::Userfaultfd};

use crate::{
    area::Area,
    object::Object,
    primitives::{Condvar, Mutex, RwLock, thread_local},
    readahead::Readers,
    trace::Trace,
};

/// What happened in a home so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Faults that the accessing thread served itself.
    pub faults_in_thread: u64,
    /// Faults that a handler thread served.
    pub faults_by_handler: u64,
    /// Pages that devices filled.
    pub filled: u64,
    /// Pages that were written back.
    pub written_back: u64,
    /// Pages that were dropped to make room.
    pub evicted: u64,
    /// Pages of content in memory now.
    pub held: u64,
    /// The most there ever were.
    pub held_most: u64,
}

/// Counters behind [`Stats`].
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) in_thread: AtomicU64,
    pub(crate) by_handler: AtomicU64,
    pub(crate) filled: AtomicU64,
    pub(crate) written_back: AtomicU64,
    pub(crate) evicted: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// The pages of content that all objects hold.
#[derive(Debug, Default)]
struct Held {
    pages: u64,
    most: u64,
    /// Of those, being filled, written back or dropped now: who needs room may wait for them.
    moving: u64,
    /// Of those, of threads that wait here or for a page: they stop moving only after others.
    stuck: u64,
    /// Threads with such pages that wait for room. One of them fails before anyone else.
    waiting: u64,
    /// Threads that look for something to drop.
    searching: u64,
    /// Counts each time that pages stopped moving.
    settled: u64,
}

thread_local! {
    /// The pages of each home that this thread moves: a driver's method may access other maps.
    static MOVED: RefCell<Vec<(*const Core, u64)>> = RefCell::default();
}

/// Blocks with resident pages, in the order in which eviction looks at them.
#[derive(Default)]
struct Queue {
    blocks: VecDeque<(Weak<Object>, u64)>,
    /// So many are of objects that are gone.
    gone: usize,
}

/// What eviction passes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spare {
    /// Blocks that were looked for since it last passed.
    Referenced,
    /// None.
    None,
}

pub(crate) struct Core {
    /// A page that nobody has but the handler threads: see `handler`.
    pub(crate) bell: Span,
    /// `None` where the kernel, or whoever made the home, refuses it.
    pub(crate) uffd: Option<Userfaultfd>,
    pub(crate) page_size: PageSize,
    /// The most pages of content in memory.
    pub(crate) limit: u64,
    /// The most bytes that are filled when they are mapped, without userfaultfd.
    pub(crate) prefill: u64,
    pub(crate) counters: Counters,
    held: Mutex<Held>,
    settled: Condvar,
    queue: Mutex<Queue>,
    areas: RwLock<BTreeMap<usize, Weak<Area>>>,
    /// Threads that read ahead, once there is something to read.
    pub(crate) readers: OnceLock<Readers>,
    pub(crate) trace: Trace,
}

impl Core {
    pub(crate) fn new(
        bell: Span,
        uffd: Option<Userfaultfd>,
        page_size: PageSize,
        limit: u64,
        prefill: u64,
    ) -> Core {
        Core {
            bell,
            uffd,
            page_size,
            limit,
            prefill,
            counters: Counters::default(),
            held: Mutex::default(),
            settled: Condvar::new(),
            queue: Mutex::default(),
            areas: RwLock::default(),
            readers: OnceLock::new(),
            trace: Trace::default(),
        }
    }

    /// Whether this is a child of the process that made the home: it has no threads here,
    /// and locks may be held for ever.
    pub(crate) fn is_forked(&self) -> bool {
        self.bell.is_forked()
    }

    pub(crate) fn stats(&self) -> Stats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let held = self.held.lock();
        Stats {
            faults_in_thread: load(&self.counters.in_thread),
            faults_by_handler: load(&self.counters.by_handler),
            filled: load(&self.counters.filled),
            written_back: load(&self.counters.written_back),
            evicted: load(&self.counters.evicted),
            held: held.pages,
            held_most: held.most,
        }
    }

    /// Makes room for `pages` pages that are about to be filled; they move until
    /// [`Core::settle`].
    ///
    /// # Errors
    /// `ENOMEM` when nothing can be dropped, and nobody is about to make room.
    pub(crate) fn reserve(&self, pages: u64) -> Result<(), Errno> {
        if pages > self.limit {
            return Err(Errno::ENOMEM);
        }
        loop {
            let before = {
                let mut held = self.held.lock();
                if held.pages + pages <= self.limit {
                    held.pages += pages;
                    held.moving += pages;
                    held.most = held.most.max(held.pages);
                    drop(held);
                    self.change_moved(|moved| moved + pages);
                    return Ok(());
                }
                held.searching += 1;
                held.settled
            };
            let found = self.evict_some(Spare::Referenced) || self.evict_some(Spare::None);
            let mut held = self.held.lock();
            held.searching -= 1;
            if !found {
                let moved = self.moved();
                let holds = u64::from(moved > 0);
                held.stuck += moved;
                held.waiting += holds;
                // Whoever searches too may have had the block in hand that was missed, and who
                // waits for these pages waits in vain.
                self.settled.notify_all();
                let pending = |held: &mut Held| {
                    held.settled == before
                        && (held.searching > 0
                            || held.moving > held.stuck
                            || (holds == 0 && held.waiting > 0))
                };
                self.settled.wait_while(&mut held, pending);
                held.stuck -= moved;
                held.waiting -= holds;
                // What settled meanwhile may be evicted, or has made room.
                if held.settled == before {
                    return Err(Errno::ENOMEM);
                }
            }
        }
    }

    /// Nobody can drop these pages now, but soon. To be said before their block is unlocked:
    /// else who needs room finds neither a page to drop nor one to wait for.
    pub(crate) fn unsettle(&self, pages: u64) {
        self.held.lock().moving += pages;
        self.change_moved(|moved| moved + pages);
    }

    /// Of `pages` pages that moved, `gone` are held no more.
    pub(crate) fn settle(&self, pages: u64, gone: u64) {
        let mut held = self.held.lock();
        held.pages -= gone;
        held.moving -= pages;
        held.settled += 1;
        drop(held);
        self.change_moved(|moved| moved.saturating_sub(pages));
        self.settled.notify_all();
    }

    /// Pages that were to be dropped stay: nobody has room by that.
    pub(crate) fn give_up(&self, pages: u64) {
        self.held.lock().moving -= pages;
        self.change_moved(|moved| moved.saturating_sub(pages));
        self.settled.notify_all();
    }

    /// Whether eviction ever passes, and room may have to be waited for.
    pub(crate) fn is_limited(&self) -> bool {
        self.limit < self.page_size.page_of(u64::MAX)
    }

    /// The pages that this thread moves.
    pub(crate) fn moved(&self) -> u64 {
        if !self.is_limited() {
            return 0;
        }
        let of_this = |moved: &RefCell<Vec<(*const Core, u64)>>| {
            let moved = moved.borrow();
            moved.iter().find(|(core, _)| std::ptr::eq(*core, self)).map_or(0, |(_, pages)| *pages)
        };
        // A thread that ends moves none.
        MOVED.try_with(of_this).unwrap_or(0)
    }

    fn change_moved(&self, change: impl FnOnce(u64) -> u64) {
        if !self.is_limited() {
            return;
        }
        let _ = MOVED.try_with(|moved| {
            let mut moved = moved.borrow_mut();
            let at = moved.iter().position(|(core, _)| std::ptr::eq(*core, self));
            let pages = change(at.map_or(0, |at| moved[at].1));
            match at {
                Some(at) if pages == 0 => drop(moved.swap_remove(at)),
                Some(at) => moved[at].1 = pages,
                None if pages > 0 => moved.push((self, pages)),
                None => {}
            }
        });
    }

    /// Threads that move these pages wait for one that another thread is busy with.
    pub(crate) fn stick(&self, pages: u64) {
        self.held.lock().stuck += pages;
        self.settled.notify_all();
    }

    /// They wait no more.
    pub(crate) fn unstick(&self, pages: u64) {
        self.held.lock().stuck -= pages;
    }

    /// Eviction shall pass at this block.
    pub(crate) fn enqueue(&self, object: Weak<Object>, block: u64) {
        self.queue.lock().blocks.push_back((object, block));
    }

    /// So many blocks in the queue are of an object that is gone. They leave it once they are
    /// half of it.
    pub(crate) fn gone_from_queue(&self, blocks: usize) {
        let mut queue = self.queue.lock();
        queue.gone += blocks;
        if 2 * queue.gone > queue.blocks.len() {
            queue.blocks.retain(|(object, _)| object.strong_count() > 0);
            queue.gone = 0;
        }
    }

    /// The blocks in the queue.
    #[cfg(test)]
    pub(crate) fn queued(&self) -> usize {
        self.queue.lock().blocks.len()
    }

    /// Drops the pages of the first block that need not be spared: whether any were.
    fn evict_some(&self, spare: Spare) -> bool {
        // Every block may be spared once: then twice around.
        let mut tries = 2 * self.queue.lock().blocks.len() + 1;
        while tries > 0 {
            tries -= 1;
            let Some((object, block)) = self.queue.lock().blocks.pop_front() else { return false };
            let Some(object) = object.upgrade() else {
                let mut queue = self.queue.lock();
                queue.gone = queue.gone.saturating_sub(1);
                continue;
            };
            if object.evict(block, spare) {
                return true;
            }
        }
        false
    }

    pub(crate) fn add_area(&self, area: &Arc<Area>) {
        self.areas.write().insert(area.span.address(), Arc::downgrade(area));
    }

    pub(crate) fn remove_area(&self, address: usize) {
        self.areas.write().remove(&address);
    }

    /// The area that holds an address (`find_vma`).
    pub(crate) fn find_area(&self, address: usize) -> Option<Arc<Area>> {
        let areas = self.areas.read();
        let area = areas.range(..=address).next_back()?.1.upgrade()?;
        (address - area.span.address() < area.span.len()).then_some(area)
    }

    /// All areas, in the order of addresses.
    pub(crate) fn areas(&self) -> Vec<Arc<Area>> {
        self.areas.read().values().filter_map(Weak::upgrade).collect()
    }
}
