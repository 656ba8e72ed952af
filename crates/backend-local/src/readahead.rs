//! Filling pages before they are looked for, on threads of their own.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Arc, Weak},
    time::Duration,
};

use devmap_sys::large::Large;

use crate::{
    Error, Mapping,
    area::{Area, Filled},
    block::{Block, PAGES, Pages},
    core::{Core, count},
    object::refused,
    order::{DEPTH, WINDOW, window_end},
    primitives::{Condvar, Mutex, MutexGuard, thread},
    trace,
};

/// Threads of one home that read ahead: so many reads are on their way at once, and what
/// has come is copied meanwhile.
const THREADS: usize = 10;

/// How long a thread keeps memory to read into while there is nothing to read.
const KEPT: Duration = Duration::from_millis(20);

/// Pages of an area, counted from its start, that will be looked for.
struct Job {
    area: Weak<Area>,
    pages: Range<u64>,
    /// The page of the device at which the area begins.
    first: u64,
    /// The most pages of one read.
    window: u64,
}

#[derive(Default)]
struct Jobs {
    /// In the order in which they are looked for.
    waiting: VecDeque<Job>,
    /// Threads that wait for one.
    idle: usize,
    threads: usize,
    home_is_gone: bool,
}

#[derive(Default)]
struct Queue {
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

/// The threads of a home. They end with it.
#[derive(Default)]
pub(crate) struct Readers(Arc<Queue>);

impl Readers {
    fn add(&self, job: Job) {
        self.0.jobs.lock().waiting.push_back(job);
        self.0.staff();
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.0.jobs.lock().home_is_gone = true;
        self.0.changed.notify_all();
    }
}

impl Queue {
    /// Sees to it that a thread takes what waits, and sees to the rest.
    fn staff(self: &Arc<Self>) {
        let mut jobs = self.jobs.lock();
        if jobs.waiting.is_empty() {
            return;
        }
        if jobs.idle > 0 {
            self.changed.notify_one();
            return;
        }
        if jobs.threads == THREADS {
            return;
        }
        jobs.threads += 1;
        drop(jobs);
        let queue = self.clone();
        let run = move || {
            let mut memory = None;
            while let Some(job) = queue.next(&mut memory) {
                queue.staff();
                if let Some(area) = job.area.upgrade() {
                    area.read_run(job.pages, &mut memory);
                }
            }
        };
        if thread::Builder::new().name("devmap-read".into()).spawn(run).is_err() {
            let mut jobs = self.jobs.lock();
            jobs.threads -= 1;
            if jobs.threads == 0 {
                // Nothing is read ahead, and all works.
                jobs.waiting.clear();
            }
        }
    }

    /// The next read; `None`: the home is gone. `memory` is not kept while there is none.
    fn next(&self, memory: &mut Option<Large>) -> Option<Job> {
        let mut jobs = self.jobs.lock();
        loop {
            if jobs.home_is_gone {
                return None;
            }
            if let Some(job) = jobs.waiting.front_mut() {
                let end = window_end(job.pages.start, job.first, job.window).min(job.pages.end);
                let pages = job.pages.start..end;
                job.pages.start = end;
                let next = Job { area: job.area.clone(), pages, ..*job };
                if job.pages.is_empty() {
                    jobs.waiting.pop_front();
                }
                return Some(next);
            }
            jobs.idle += 1;
            let mut is_over = false;
            if memory.is_some() {
                is_over = self.changed.wait_for(&mut jobs, KEPT).timed_out();
            } else {
                self.changed.wait(&mut jobs);
            }
            jobs.idle -= 1;
            if is_over {
                MutexGuard::unlocked(&mut jobs, || *memory = None);
            }
        }
    }
}

impl Core {
    fn read_later(&self, area: &Arc<Area>, pages: Range<u64>) {
        let (first, window) = (area.first_page, self.window().max(1));
        let job = Job { area: Arc::downgrade(area), pages, first, window };
        self.readers.get_or_init(Readers::default).add(job);
    }

    /// The most pages of one read, so that all that is read ahead leaves room for what is
    /// being looked for.
    fn window(&self) -> u64 {
        WINDOW.min(self.limit / (4 * DEPTH))
    }
}

impl Area {
    /// Page `at` was looked for in order: has those read that come next.
    pub(crate) fn read_on(self: &Arc<Self>, at: u64) {
        if !self.reads_ahead() {
            return;
        }
        let windows = self.order.lock().windows(at, self.first_page, self.core.window());
        let end = self.extent(at).0;
        for window in windows.into_iter().filter(|window| window.start < end) {
            self.core.read_later(self, window.start..window.end.min(end));
        }
    }

    /// Fills pages that are not there, no more than a window, as far as the driver does so
    /// and there is room. The first of them is left unmapped, so that its access is told.
    fn read_run(&self, pages: Range<u64>, memory: &mut Option<Large>) {
        if !self.reads_ahead() {
            return;
        }
        let first = self.first_page;
        let pages = first + pages.start..(first + pages.end).min(self.object.end());
        if pages.is_empty() {
            return;
        }
        let claimed = self.claim(&pages);
        // Asked again: a cut that comes after this drops them, since they are busy now.
        let end = self.object.end();
        let runs = claimed.iter().flat_map(|claim| claim.pages.runs(claim.index));
        let (mut came, mut own): (Vec<Range<u64>>, Vec<Range<u64>>) = (Vec::new(), Vec::new());
        for run in joined(runs) {
            let run = run.start..run.end.min(end);
            if run.is_empty() {
                break;
            }
            let read = self.read_pages(run.clone(), pages.start, memory);
            let is_all = read.came.end == run.end;
            came.push(read.came);
            own.push(read.own);
            if read.is_moved {
                self.object.note_moved(self, &pages);
                self.core.settle(WINDOW, 0);
                count(&self.core.counters.filled, WINDOW);
                return;
            }
            if !is_all {
                break;
            }
        }
        let mut all_lost = 0;
        for claim in claimed {
            let among = |runs: &[Range<u64>]| {
                let mut among = Pages::NONE;
                runs.iter().for_each(|run| among.add(Pages::in_block(claim.index, run)));
                among.and(claim.pages)
            };
            let (mut state, lost) =
                self.object.lock_with_own(self, &claim.block, claim.index, among(&own));
            all_lost += lost.count();
            state.resident.add(among(&came).without(lost));
            self.object.enqueue(claim.index, &mut state);
            claim.block.finish(&self.core, state, claim.pages);
        }
        let filled = came.iter().map(|run| run.end - run.start).sum();
        self.core.settle(filled, all_lost);
        count(&self.core.counters.filled, filled);
    }

    /// Makes those of the pages busy that are not there.
    fn claim(&self, pages: &Range<u64>) -> Vec<Claim> {
        let indices = pages.start / PAGES..pages.end.div_ceil(PAGES);
        let claim = |index| {
            let block = self.object.block(index);
            let mut state = block.lock();
            let wanted = Pages::in_block(index, pages);
            let pages = wanted.without(state.resident).without(state.busy);
            state.busy.add(pages);
            drop(state);
            Claim { index, block, pages }
        };
        indices.map(claim).filter(|claim| !claim.pages.is_empty()).collect()
    }

    /// Reads pages that this thread is busy with: those that came move, then.
    fn read_pages(&self, run: Range<u64>, unmapped: u64, memory: &mut Option<Large>) -> Read {
        let page_len = self.core.page_size.bytes() as usize;
        let pages = run.end - run.start;
        let none = run.start..run.start;
        let mut read = Read { came: none.clone(), own: none, is_moved: false };
        // Before they are read: memory that they are read into is held too.
        if self.core.reserve(pages).is_err() {
            return read;
        }
        if let Some((memory, len)) = self.read_into(&run, memory) {
            if len as u64 == pages * self.core.page_size.bytes()
                && self.object.move_in(self, &run, memory)
            {
                read.came.end = run.end;
                read.is_moved = true;
                return read;
            }
            let bytes = &memory.bytes()[..len];
            // The first page of a window is cached only.
            let first = if run.start == unmapped { page_len } else { 0 };
            let (first, rest) = bytes.split_at(first.min(bytes.len()));
            let after = run.start + (first.len() / page_len) as u64;
            let own =
                self.insert_cached(run.start, first).and_then(|()| self.insert_run(after, rest));
            if let Ok(own) = own {
                read.came.end += (bytes.len() / page_len) as u64;
                read.own = own;
            }
        }
        let missing = run.end - read.came.end;
        self.core.settle(missing, missing);
        read
    }

    /// Has the driver read pages: how many bytes it filled of what memory.
    fn read_into<'a>(
        &self,
        run: &Range<u64>,
        memory: &'a mut Option<Large>,
    ) -> Option<(&'a mut Large, usize)> {
        let page_len = self.core.page_size.bytes() as usize;
        let len = (run.end - run.start) as usize * page_len;
        if memory.as_ref().is_none_or(|memory| memory.len() < len) {
            // At once for the largest reads, which are in one large page.
            *memory = Large::new(len.max(self.core.window() as usize * page_len)).ok();
        }
        let memory = memory.as_mut()?;
        let bytes = memory.zeroed(len)?;
        let read = self.step("readahead", &trace::pages(run), || {
            self.file.readahead(run.start, bytes).map_err(|errno| refused("readahead", errno))
        });
        // An error is nobody's yet: who needs one of these pages gets it, if it still is one.
        let filled = read.ok()?.min(len) / page_len;
        if filled == 0 {
            self.no_read_ahead();
        }
        Some((memory, filled * page_len))
    }

    fn insert_cached(&self, page: u64, content: &[u8]) -> Result<(), Error> {
        if content.is_empty() {
            return Ok(());
        }
        let offset = self.object.bytes(&(page..page + 1)).start;
        let written = self.object.pages.write(offset, content);
        written.map_err(|error| Error::system("pwrite", &error))
    }

    /// Puts pages of the device into the page cache, and into the page table as far as that
    /// is one call: those that are own memory then.
    fn insert_run(&self, page: u64, content: &[u8]) -> Result<Range<u64>, Error> {
        let mut done = 0;
        let mut own = page..page;
        let quiet = self.quiet();
        if let (Some(filled), Some(uffd), false) =
            (self.copied(), &self.core.uffd, self.counts_as_written(quiet))
        {
            let at = page - self.first_page;
            let to = self.bytes(&(at..at + 1)).start;
            if let Ok(copied) = uffd.copy(&self.span, to, content, quiet) {
                done = copied;
                let pages = self.core.page_size.page_of(copied as u64);
                match filled {
                    Filled::Own => own.end += pages,
                    _ => self.mark_mapped(at..at + pages, quiet),
                }
            }
        }
        if done < content.len() {
            let offset = self.object.bytes(&(page..page + 1)).start + done as u64;
            if let Err(error) = self.object.pages.write(offset, &content[done..]) {
                for inside in self.inside(own) {
                    let _ = self.span.zap(self.bytes(&inside));
                }
                return Err(Error::system("pwrite", &error));
            }
        }
        Ok(own)
    }
}

/// Pages of the device that were read.
struct Read {
    came: Range<u64>,
    /// Those of them that are own memory.
    own: Range<u64>,
    /// Whether all are, in large memory.
    is_moved: bool,
}

/// Pages of a block that this thread is busy with.
struct Claim {
    index: u64,
    block: Arc<Block>,
    pages: Pages,
}

/// Neighbours as one.
fn joined(runs: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for run in runs {
        match joined.last_mut() {
            Some(last) if last.end == run.start => last.end = run.end,
            _ => joined.push(run),
        }
    }
    joined
}

impl Mapping {
    /// Has the pages of a range supplied soon (`MADV_WILLNEED`), on another thread.
    ///
    /// # Errors
    /// Outside of the mapping. Those of the pages come with their accesses.
    pub fn prefetch(&self, bytes: Range<usize>) -> Result<(), Error> {
        self.check_bytes(&bytes)?;
        let pages = self.pages(&bytes);
        for extent in &self.area.faulted {
            let part = pages.start.max(extent.start)..pages.end.min(extent.end);
            if !part.is_empty() {
                self.area.core.read_later(&self.area, part);
            }
        }
        Ok(())
    }
}
