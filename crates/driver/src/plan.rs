//! What a driver's `mmap` answers: a plan that the home carries out.

use core::{fmt, ops::Range};

use crate::NewArea;

/// The most extents that one plan holds. Bounded, so that a plan needs no
/// allocator and a home can carry it out within one system call.
pub const MAX_EXTENTS: usize = 8;

/// Where the pages of an extent come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source<M> {
    /// Method one, `remap_pfn_range`: pages of this memory, all at once, shared with
    /// the driver. The home holds its own handle to the memory while it is mapped.
    Remap {
        /// The memory that holds the pages.
        memory: M,
        /// The page of `memory` at which the extent begins.
        first_page: u64,
    },
    /// Method two, `vm_ops->fault`: ask [`Device::fault`](crate::Device::fault) for
    /// each page at first access.
    Fault,
}

/// One run of pages of the area, all from one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent<M> {
    /// The first page, counted from the start of the area.
    pub at: u64,
    /// How many pages.
    pub pages: u64,
    /// Where they come from.
    pub source: Source<M>,
}

/// Flags that a driver sets on the area, with the kernel's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AreaFlags(u8);

impl AreaFlags {
    /// None.
    pub const NONE: AreaFlags = AreaFlags(0);
    /// `VM_IO`: device registers or the like; left out of core dumps.
    pub const IO: AreaFlags = AreaFlags(1);
    /// `VM_DONTEXPAND`: `mremap` may not make it longer (`EFAULT`).
    pub const DONTEXPAND: AreaFlags = AreaFlags(2);
    /// `VM_DONTDUMP`: left out of core dumps.
    pub const DONTDUMP: AreaFlags = AreaFlags(4);
    /// `VM_RESERVED` as it was: today `VM_DONTEXPAND | VM_DONTDUMP`, and never
    /// swapped. The two without it are for memory of which programs would not see that:
    /// a home of ordinary processes locks what is reserved, for which users have a limit.
    pub const RESERVED: AreaFlags = AreaFlags(2 | 4 | 8);

    /// Both sets.
    pub const fn union(self, other: AreaFlags) -> AreaFlags {
        AreaFlags(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    pub const fn contains(self, other: AreaFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the pages stay out of core dumps: [`AreaFlags::IO`] or
    /// [`AreaFlags::DONTDUMP`].
    pub const fn is_dump_excluded(self) -> bool {
        self.0 & (Self::IO.0 | Self::DONTDUMP.0) != 0
    }
}

impl fmt::Display for AreaFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            [(Self::IO, "io"), (Self::DONTEXPAND, "dontexpand"), (Self::DONTDUMP, "dontdump")];
        let mut separator = "";
        for (_, name) in names.iter().filter(|(flag, _)| self.contains(*flag)) {
            write!(f, "{separator}{name}")?;
            separator = ",";
        }
        Ok(())
    }
}

/// The answer of a driver's `mmap`: which pages stand where in the area.
///
/// The extents must cover the area exactly, in any order, and stay within their
/// memory. A home checks that with [`Plan::validate`] and refuses what does not:
/// the program gets `EIO` and the message names the driver.
#[derive(Clone, Debug)]
pub struct Plan<M> {
    extents: [Option<Extent<M>>; MAX_EXTENTS],
    refused: bool,
    flags: AreaFlags,
}

impl<M> Default for Plan<M> {
    fn default() -> Self {
        Plan { extents: [const { None }; MAX_EXTENTS], refused: false, flags: AreaFlags::NONE }
    }
}

impl<M: Clone> Plan<M> {
    /// A plan with no extent yet.
    pub fn new() -> Plan<M> {
        Plan::default()
    }

    /// The whole area from `memory`, beginning at its page `first_page`: the
    /// `remap_pfn_range` of most drivers.
    pub fn remap_all(area: &NewArea, memory: &M, first_page: u64) -> Plan<M> {
        Plan::new().remap(0..area.pages(), memory, first_page)
    }

    /// The whole area page by page, by [`Device::fault`](crate::Device::fault).
    pub fn fault_all(area: &NewArea) -> Plan<M> {
        Plan::new().fault(0..area.pages())
    }

    /// Adds an extent: pages `at` of the area come from `memory`, beginning at its
    /// page `first_page`.
    #[must_use]
    pub fn remap(self, at: Range<u64>, memory: &M, first_page: u64) -> Plan<M> {
        self.push(at, Source::Remap { memory: memory.clone(), first_page })
    }

    /// Adds an extent whose pages are supplied at first access.
    #[must_use]
    pub fn fault(self, at: Range<u64>) -> Plan<M> {
        self.push(at, Source::Fault)
    }

    /// Adds area flags.
    #[must_use]
    pub fn flags(mut self, flags: AreaFlags) -> Plan<M> {
        self.flags = self.flags.union(flags);
        self
    }

    fn push(mut self, at: Range<u64>, source: Source<M>) -> Plan<M> {
        let extent = Extent { at: at.start, pages: at.end.saturating_sub(at.start), source };
        match self.extents.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => *slot = Some(extent),
            None => self.refused = true,
        }
        self
    }

    /// The extents, in the order in which they were added.
    pub fn extents(&self) -> impl Iterator<Item = &Extent<M>> + Clone {
        self.extents.iter().flatten()
    }

    /// The area flags.
    pub fn area_flags(&self) -> AreaFlags {
        self.flags
    }

    /// Checks that the extents cover `area` exactly and stay within their memory,
    /// whose length `pages_of` tells.
    ///
    /// # Errors
    /// The first rule that the plan breaks.
    pub fn validate(&self, area: &NewArea, pages_of: impl Fn(&M) -> u64) -> Result<(), PlanError> {
        if self.refused {
            return Err(PlanError::TooMany);
        }
        let mut covered: u64 = 0;
        for extent in self.extents() {
            if extent.pages == 0 {
                return Err(PlanError::Empty { at: extent.at });
            }
            let end = extent.at.checked_add(extent.pages).filter(|end| *end <= area.pages());
            if end.is_none() {
                return Err(PlanError::PastArea { at: extent.at, pages: extent.pages });
            }
            if let Source::Remap { memory, first_page } = &extent.source {
                let has = pages_of(memory);
                if first_page.checked_add(extent.pages).is_none_or(|end| end > has) {
                    return Err(PlanError::PastMemory {
                        first_page: *first_page,
                        pages: extent.pages,
                        has,
                    });
                }
            }
            covered += extent.pages;
        }
        // Within the area and disjoint, extents cover it exactly when their pages
        // add up to its own.
        let mut others = self.extents();
        while let Some(one) = others.next() {
            let overlap = others
                .clone()
                .find(|other| one.at < other.at + other.pages && other.at < one.at + one.pages);
            if let Some(other) = overlap {
                return Err(PlanError::Overlap { at: one.at.max(other.at) });
            }
        }
        if covered < area.pages() {
            return Err(PlanError::Hole { at: self.first_hole(), pages: area.pages() });
        }
        Ok(())
    }

    /// The first page that no extent covers, given that they are disjoint.
    fn first_hole(&self) -> u64 {
        let mut page = 0;
        while let Some(extent) = self.extents().find(|e| e.at <= page && page < e.at + e.pages) {
            page = extent.at + extent.pages;
        }
        page
    }
}

/// Why a home refused a plan. All numbers are pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// More than [`MAX_EXTENTS`] extents.
    TooMany,
    /// An extent without pages.
    Empty {
        /// Where it stands in the area.
        at: u64,
    },
    /// An extent that ends past the area.
    PastArea {
        /// Where it stands in the area.
        at: u64,
        /// Its length.
        pages: u64,
    },
    /// An extent that reaches past its memory.
    PastMemory {
        /// The first page of the memory that it asks for.
        first_page: u64,
        /// How many it asks for.
        pages: u64,
        /// How many the memory has.
        has: u64,
    },
    /// Two extents cover one page.
    Overlap {
        /// The page of the area.
        at: u64,
    },
    /// A page that no extent covers.
    Hole {
        /// The page of the area.
        at: u64,
        /// The area's length.
        pages: u64,
    },
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanError::TooMany => write!(f, "has more than {MAX_EXTENTS} extents"),
            PlanError::Empty { at } => write!(f, "has an empty extent at page {at}"),
            PlanError::PastArea { at, pages } => {
                write!(f, "has an extent of {pages} pages at page {at} that ends past the area")
            }
            PlanError::PastMemory { first_page, pages, has } => write!(
                f,
                "asks for {pages} pages from page {first_page} of a memory that has {has}"
            ),
            PlanError::Overlap { at } => write!(f, "covers page {at} twice"),
            PlanError::Hole { at, pages } => {
                write!(f, "leaves page {at} of an area of {pages} pages uncovered")
            }
        }
    }
}

impl core::error::Error for PlanError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PageSize, Protection, Sharing};

    fn area(pages: u64) -> NewArea {
        let page = PageSize::new(4096).unwrap();
        NewArea::new(page, 0, pages, Protection::READ_WRITE, Sharing::Shared).unwrap()
    }

    /// The memory is its own length in pages.
    fn check(plan: Plan<u64>, pages: u64) -> Result<(), PlanError> {
        plan.validate(&area(pages), |memory| *memory)
    }

    #[test]
    fn whole_plans_pass_in_any_order() {
        assert_eq!(check(Plan::remap_all(&area(4), &4, 0), 4), Ok(()));
        assert_eq!(check(Plan::new().remap(2..4, &9, 7).fault(0..2), 4), Ok(()));
    }

    #[test]
    fn bad_plans_are_named() {
        assert_eq!(check(Plan::new(), 4), Err(PlanError::Hole { at: 0, pages: 4 }));
        let hole = Plan::new().fault(0..1).fault(2..4);
        assert_eq!(check(hole, 4), Err(PlanError::Hole { at: 1, pages: 4 }));
        let overlap = Plan::new().fault(0..3).fault(2..4);
        assert_eq!(check(overlap, 4), Err(PlanError::Overlap { at: 2 }));
        assert_eq!(check(Plan::new().fault(0..5), 4), Err(PlanError::PastArea { at: 0, pages: 5 }));
        assert_eq!(
            check(Plan::new().remap(0..4, &4, 1), 4),
            Err(PlanError::PastMemory { first_page: 1, pages: 4, has: 4 })
        );
        let huge = Plan::new().remap(0..4, &4, u64::MAX);
        assert!(matches!(check(huge, 4), Err(PlanError::PastMemory { .. })));
        let past = Plan::new().fault(u64::MAX - 1..u64::MAX);
        assert!(matches!(check(past, 4), Err(PlanError::PastArea { .. })));
        assert_eq!(check(Plan::new().fault(3..3), 4), Err(PlanError::Empty { at: 3 }));
        let many = (0..9).fold(Plan::new(), |plan, page| plan.fault(page..page + 1));
        assert_eq!(check(many, 9), Err(PlanError::TooMany));
    }
}
