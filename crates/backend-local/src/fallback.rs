//! Without userfaultfd, which sandboxes refuse: all pages of a map are supplied when it is
//! made, up to a limit, and stay. Nobody tells of stores then, so every page of a shared map
//! for writing is written back each time.

use std::sync::Arc;

use devmap_driver::{Access, Errno};

use crate::{Error, area::Area, object::refused};

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
            if self.object.check_end(self.first_page + at).is_err() {
                // A program that touches it gets an error, as with any map.
                break;
            }
            self.fault(at, Access::Read)?;
        }
        Ok(())
    }
}
