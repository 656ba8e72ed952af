//! Filled pages that programs have stored to, of devices that leave the keeping to their
//! home: kept by the daemon, so that all joiners have the same.
//!
//! What does not live here: pages of devices with a store, which are the driver's.

use std::collections::HashMap;

use devmap_driver::Errno;
use parking_lot::Mutex;

/// The most pages that are kept for the joiners of one user: also when they are gone, for as
/// long as anybody has the device open.
pub(super) const MOST_PAGES: usize = 1 << 16;

#[derive(Default)]
pub(super) struct Kept(Mutex<Pages>);

#[derive(Default)]
struct Pages {
    /// By the device's index and the page of the device.
    pages: HashMap<(u64, u64), Page>,
    /// How many each user has stored first.
    of_user: HashMap<u32, usize>,
}

struct Page {
    /// Which user stored it first.
    uid: u32,
    bytes: Box<[u8]>,
}

impl Kept {
    /// A page, if it has been stored.
    pub(super) fn get(&self, device: u64, page: u64) -> Option<Box<[u8]>> {
        self.0.lock().pages.get(&(device, page)).map(|page| page.bytes.clone())
    }

    /// Keeps whole pages that a user's joiner has given back.
    ///
    /// # Errors
    /// `EINVAL` for anything but whole pages; `ENOSPC` past [`MOST_PAGES`].
    pub(super) fn put(
        &self,
        uid: u32,
        device: u64,
        page_len: u64,
        (offset, bytes): (u64, &[u8]),
    ) -> Result<(), Errno> {
        if !offset.is_multiple_of(page_len) || !(bytes.len() as u64).is_multiple_of(page_len) {
            return Err(Errno::EINVAL);
        }
        let Pages { pages, of_user } = &mut *self.0.lock();
        for (bytes, page) in bytes.chunks(page_len as usize).zip(offset / page_len..) {
            if let Some(kept) = pages.get_mut(&(device, page)) {
                kept.bytes.copy_from_slice(bytes);
                continue;
            }
            let count = of_user.entry(uid).or_default();
            if *count >= MOST_PAGES {
                return Err(Errno::ENOSPC);
            }
            *count += 1;
            pages.insert((device, page), Page { uid, bytes: bytes.into() });
        }
        Ok(())
    }

    /// Nobody has the device open any more: the next who opens it finds new pages.
    pub(super) fn forget(&self, device: u64) {
        let Pages { pages, of_user } = &mut *self.0.lock();
        pages.retain(|(of, _), Page { uid, .. }| {
            if *of == device
                && let Some(count) = of_user.get_mut(uid)
            {
                *count -= 1;
            }
            *of != device
        });
        of_user.retain(|_, count| *count > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_kept_up_to_a_limit_of_each_user() {
        let kept = Kept::default();
        assert_eq!(kept.put(1, 0, 512, (512, &[1; 1024])), Ok(()));
        assert_eq!(kept.put(2, 0, 512, (1024, &[2; 512])), Ok(()));
        assert_eq!(kept.get(0, 1).as_deref(), Some(&[1; 512][..]));
        assert_eq!(kept.get(0, 2).as_deref(), Some(&[2; 512][..]));
        assert_eq!((kept.get(0, 0), kept.get(1, 1)), (None, None));
        assert_eq!(kept.put(1, 0, 512, (1, &[0; 512])), Err(Errno::EINVAL));
        assert_eq!(kept.put(1, 0, 512, (0, &[0; 511])), Err(Errno::EINVAL));
        let many = vec![3; 512 * (MOST_PAGES - 2)];
        assert_eq!(kept.put(1, 7, 512, (0, &many)), Ok(()));
        assert_eq!(kept.put(1, 8, 512, (0, &[0; 512])), Err(Errno::ENOSPC));
        // What is there already, and what others store, costs it nothing.
        assert_eq!(kept.put(1, 7, 512, (0, &[4; 512])), Ok(()));
        assert_eq!(kept.put(2, 8, 512, (0, &[0; 512])), Ok(()));
        kept.forget(7);
        assert_eq!(kept.get(7, 0), None);
        assert_eq!(kept.put(1, 8, 512, (512, &[0; 512])), Ok(()));
        assert_eq!(kept.get(0, 1).as_deref(), Some(&[1; 512][..]));
    }
}
