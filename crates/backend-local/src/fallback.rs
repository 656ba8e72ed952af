//! Without userfaultfd, which sandboxes refuse: all pages of a map are supplied when it is
//! made, up to a limit, and stay. Nobody tells of stores then, so every page of a shared map
//! for writing is written back each time.
//!
//! Past the end of a file an empty one is laid, so that accesses get SIGBUS: the page cache
//! would read as zeros there. What the file grows by is supplied and laid when it is
//! truncated here, or at the first checked access there.

use std::{ops::Range, os::fd::AsFd, sync::Arc};

use devmap_driver::{Access, Errno};
use devmap_sys::{
    memfd,
    span::{Span, mark},
};

use crate::{Error, area::Area, object::refused, primitives::atomic::Ordering};

impl Area {
    /// Supplies all pages that come by faults.
    ///
    /// # Errors
    /// Those of the driver; `ENOMEM` beyond the limit.
    pub(crate) fn prefill(self: &Arc<Self>) -> Result<(), Error> {
        let pages: u64 = self.faulted.iter().map(|extent| extent.end - extent.start).sum();
        if pages > self.core.page_size.page_of(self.core.prefill) {
            return Err(refused("mmap", Errno::ENOMEM));
        }
        for at in self.faulted.iter().cloned().flatten() {
            match self.supply(at, Access::Read) {
                // A program that touches it gets an error, as with any map.
                Err(Error::PastEnd { .. }) => break,
                supplied => supplied?,
            }
        }
        Ok(())
    }

    /// Whether the page cache is laid at a page, counted from the area's start.
    pub(crate) fn is_laid(&self, at: u64) -> bool {
        at < self.laid_to.load(Ordering::Acquire)
    }

    /// The file was cut or grew. What fails is said by the next access that is checked.
    pub(crate) fn truncated(self: &Arc<Self>) {
        if self.core.uffd.is_none() {
            let _ = self.resize();
        }
    }

    /// Lays the page cache up to the end of the file as it is now, supplied, and no further.
    /// A file is one extent.
    ///
    /// # Errors
    /// Those of the driver and of the kernel.
    pub(crate) fn resize(self: &Arc<Self>) -> Result<(), Error> {
        let (Some(extent), Some(size)) = (self.faulted.last(), self.object.size()) else {
            return Ok(());
        };
        let _resizing = self.resizing.lock();
        let before = self.laid_to.load(Ordering::Acquire);
        let end = self.core.page_size.pages_for(size);
        let now = end.saturating_sub(self.first_page).min(extent.end);
        if now < before {
            self.laid_to.store(now, Ordering::Release);
            self.set_marks(now..before, mark::NOTHING);
            return lay_end(&self.span, self.bytes(&(now..before)));
        }
        if before == now {
            return Ok(());
        }
        for at in before..now {
            self.supply(at, Access::Read)?;
        }
        let bytes = self.bytes(&(before..now));
        let offset = self.core.page_size.bytes() * (self.first_page + before);
        self.span
            .lay_store(bytes.start, &self.object.pages, offset, bytes.len())
            .map_err(|error| Error::system("mmap", &error))?;
        self.laid_to.store(now, Ordering::Release);
        Ok(())
    }
}

/// Lays an empty file.
///
/// # Errors
/// Those of the kernel.
pub(crate) fn lay_end(span: &Span, bytes: Range<usize>) -> Result<(), Error> {
    if bytes.is_empty() {
        return Ok(());
    }
    let empty =
        memfd::create("devmap-end", 0).map_err(|error| Error::system("memfd_create", &error))?;
    span.lay_memory(bytes.start, empty.as_fd(), 0, bytes.len())
        .map_err(|error| Error::system("mmap", &error))
}
