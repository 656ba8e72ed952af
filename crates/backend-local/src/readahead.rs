//! Filling pages before they are looked for, on threads of their own.

use std::{
    ops::Range,
    sync::{Arc, Weak, mpsc},
    thread,
};

use devmap_driver::Sharing;
use parking_lot::Mutex;

use crate::{
    Error, Mapping,
    area::Area,
    block::{Block, PAGES, Pages},
    buffer,
    core::{Core, count},
    object::refused,
    order::WINDOW,
    trace,
};

/// Threads of one home that read ahead.
const THREADS: usize = 2;

/// Pages of an area, counted from its start, that will be looked for.
type Job = (Weak<Area>, Range<u64>);

/// The threads of a home. They end with it.
pub(crate) struct Readers(mpsc::Sender<Job>);

impl Readers {
    fn start() -> Readers {
        let (sender, receiver) = mpsc::channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..THREADS {
            let receiver = receiver.clone();
            let run = move || {
                loop {
                    let job = receiver.lock().recv();
                    let Ok((area, pages)) = job else { return };
                    if let Some(area) = area.upgrade() {
                        area.read_ahead(pages);
                    }
                }
            };
            // Without a thread nothing is read ahead, and all works.
            let _ = thread::Builder::new().name("devmap-read".into()).spawn(run);
        }
        Readers(sender)
    }
}

impl Core {
    fn read_later(&self, area: &Arc<Area>, pages: Range<u64>) {
        let readers = self.readers.get_or_init(Readers::start);
        // Nobody takes it if there is no thread.
        let _ = readers.0.send((Arc::downgrade(area), pages));
    }
}

impl Area {
    /// Page `at` was looked for in order: has those read that come next.
    pub(crate) fn read_on(self: &Arc<Self>, at: u64) {
        if !self.reads_ahead() {
            return;
        }
        let windows = self.order.lock().windows(at);
        let end = self.extent(at).0;
        for window in windows.into_iter().filter(|window| window.start < end) {
            self.core.read_later(self, window.start..window.end.min(end));
        }
    }

    /// Fills pages that are not there, as far as the driver does so and there is room. The
    /// first of them is left unmapped, so that its access is told.
    fn read_ahead(&self, pages: Range<u64>) {
        let first = self.first_page;
        let mut wanted = first + pages.start..first + pages.end;
        if let Some(size) = self.object.size() {
            wanted.end = wanted.end.min(self.core.page_size.pages_for(size));
        }
        while wanted.start < wanted.end {
            let end = wanted.end.min(wanted.start + WINDOW);
            if !self.read_run(wanted.start..end) {
                return;
            }
            wanted.start = end;
        }
    }

    /// As [`Area::read_ahead`], of pages of the device, no more than a window: whether to go
    /// on.
    fn read_run(&self, pages: Range<u64>) -> bool {
        // More would drive out what is being looked for.
        if pages.end - pages.start > self.core.limit / 8 {
            return false;
        }
        let claimed = self.claim(&pages);
        let runs = claimed.iter().flat_map(|claim| claim.pages.runs(claim.index));
        let mut came: Vec<Range<u64>> = Vec::new();
        let mut goes_on = true;
        for run in joined(runs) {
            let got = self.read_pages(run.clone(), pages.start);
            came.push(run.start..run.start + got);
            if got < run.end - run.start {
                goes_on = false;
                break;
            }
        }
        for claim in claimed {
            let mut state = claim.block.lock();
            for run in &came {
                state.resident.add(Pages::in_block(claim.index, run).and(claim.pages));
            }
            self.object.enqueue(claim.index, &mut state);
            claim.block.finish(state, claim.pages);
        }
        let filled = came.iter().map(|run| run.end - run.start).sum();
        self.core.settle(filled, 0);
        count(&self.core.counters.filled, filled);
        goes_on
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

    /// Reads pages that this thread is busy with: how many came. They move, then.
    fn read_pages(&self, run: Range<u64>, unmapped: u64) -> u64 {
        let page_len = self.core.page_size.bytes() as usize;
        let len = (run.end - run.start) as usize * page_len;
        let Ok(mut buffer) = buffer::take(len) else { return 0 };
        let bytes = buffer.bytes(len);
        bytes.fill(0);
        let read = self.step("readahead", &trace::pages(&run), || {
            self.file.readahead(run.start, bytes).map_err(|errno| refused("readahead", errno))
        });
        let filled = read.unwrap_or(0).min(len) / page_len;
        if filled == 0 {
            self.no_read_ahead();
        }
        let inserted = filled > 0 && self.core.reserve(filled as u64).is_ok() && {
            // The first page of a window is cached only.
            let first = if run.start == unmapped { page_len } else { 0 };
            let (first, rest) = bytes[..filled * page_len].split_at(first);
            let after = run.start + (first.len() / page_len) as u64;
            let inserted = self
                .insert_cached(run.start, first)
                .and_then(|()| self.insert_run(after, rest))
                .is_ok();
            if !inserted {
                self.core.settle(filled as u64, filled as u64);
            }
            inserted
        };
        buffer::give_back(buffer);
        if inserted { filled as u64 } else { 0 }
    }

    fn insert_cached(&self, page: u64, content: &[u8]) -> Result<(), Error> {
        let offset = self.object.bytes(&(page..page + 1)).start;
        let written = self.object.pages.write(offset, content);
        written.map_err(|error| Error::system("pwrite", &error))
    }

    /// Puts pages of the device into the page cache, and into the page table as far as that
    /// is one call.
    fn insert_run(&self, page: u64, content: &[u8]) -> Result<(), Error> {
        let mut done = 0;
        let quiet = self.quiet();
        if let (Sharing::Shared, Some(uffd), false) =
            (self.sharing, &self.core.uffd, self.counts_as_written(quiet))
        {
            let at = page - self.first_page;
            let to = self.bytes(&(at..at + 1)).start;
            if let Ok(copied) = uffd.copy(&self.span, to, content, quiet) {
                done = copied;
                let pages = self.core.page_size.page_of(copied as u64);
                self.mark_mapped(at..at + pages, quiet);
            }
        }
        if done < content.len() {
            let offset = self.object.bytes(&(page..page + 1)).start + done as u64;
            let written = self.object.pages.write(offset, &content[done..]);
            written.map_err(|error| Error::system("pwrite", &error))?;
        }
        Ok(())
    }
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
        self.check_range(bytes.start, bytes.end.saturating_sub(bytes.start))?;
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
