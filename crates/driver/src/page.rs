//! Page arithmetic. The page size is a property of the machine, never a constant.

/// The size of a page: a power of two of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageSize {
    shift: u8,
}

impl PageSize {
    /// From a number of bytes; `None` unless it is a power of two of at least 512.
    pub const fn new(bytes: u64) -> Option<PageSize> {
        if bytes.is_power_of_two() && bytes >= 512 {
            Some(PageSize { shift: bytes.trailing_zeros() as u8 })
        } else {
            None
        }
    }

    /// Bytes in one page.
    pub const fn bytes(self) -> u64 {
        1 << self.shift
    }

    /// The page that holds byte `offset` (`offset >> PAGE_SHIFT`).
    pub const fn page_of(self, offset: u64) -> u64 {
        offset >> self.shift
    }

    /// The first byte of `page`; `None` when it does not fit in 64 bits.
    pub const fn offset_of(self, page: u64) -> Option<u64> {
        if page > u64::MAX >> self.shift { None } else { Some(page << self.shift) }
    }

    /// How many pages hold `bytes` bytes (`PAGE_ALIGN(bytes) >> PAGE_SHIFT`).
    pub const fn pages_for(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.bytes())
    }

    /// Whether `offset` begins a page.
    pub const fn is_aligned(self, offset: u64) -> bool {
        offset & (self.bytes() - 1) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::PageSize;

    #[test]
    fn arithmetic_at_the_edges() {
        let page = PageSize::new(16384).unwrap();
        assert_eq!(page.pages_for(0), 0);
        assert_eq!(page.pages_for(1), 1);
        assert_eq!(page.pages_for(16384), 1);
        assert_eq!(page.pages_for(u64::MAX), 1 << 50);
        assert_eq!(page.offset_of(u64::MAX), None);
        assert_eq!(page.page_of(16383), 0);
        assert!(PageSize::new(3000).is_none());
    }
}
