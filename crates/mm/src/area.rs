//! An area: `struct vm_area_struct`. What merging and splitting need to know of it;
//! not where it stands among others.

use alloc::sync::Arc;
use core::fmt;

use devmap_driver::{AreaFlags, PageSize, Protection};

use crate::File;

/// `vm_flags`, as far as they mean something here.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags(u32);

macro_rules! flags {
    ($($name:ident = $bit:literal, $text:literal;)*) => {
        impl Flags {
            $(#[doc = $text] pub const $name: Flags = Flags(1 << $bit);)*

            /// Each flag with its name.
            const NAMES: &[(Flags, &str)] = &[$((Flags::$name, stringify!($name))),*];
        }
    };
}

flags! {
    READ = 0, "`VM_READ`";
    WRITE = 1, "`VM_WRITE`";
    EXEC = 2, "`VM_EXEC`";
    SHARED = 3, "`VM_SHARED`: stores reach the object. Not set for a shared map of a file that was opened read-only";
    MAYSHARE = 4, "`VM_MAYSHARE`: `MAP_SHARED` was asked for";
    MAYWRITE = 5, "`VM_MAYWRITE`: `mprotect` may permit stores";
    LOCKED = 6, "`VM_LOCKED`: pages stay resident";
    IO = 7, "`VM_IO`";
    DONTEXPAND = 8, "`VM_DONTEXPAND`: `mremap` may not grow it";
    DONTDUMP = 9, "`VM_DONTDUMP`: left out of core dumps";
    DONTCOPY = 10, "`VM_DONTCOPY`: a child does not inherit it";
    WIPEONFORK = 11, "`VM_WIPEONFORK`: a child finds zeros";
    RAND_READ = 12, "`VM_RAND_READ`: no read-ahead";
    SEQ_READ = 13, "`VM_SEQ_READ`: read-ahead is worth while";
    ACCOUNT = 14, "`VM_ACCOUNT`: counted as memory that may be needed";
    PFNMAP = 15, "`VM_PFNMAP`: holds pages of a driver that were mapped all at once";
    LOCKONFAULT = 16, "`VM_LOCKONFAULT`: pages stay resident from their first use on";
}

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);
    /// `VM_ACCESS_FLAGS`.
    pub const ACCESS: Flags = Flags(0b111);
    /// `VM_LOCKED_MASK`.
    pub const LOCKS: Flags = Flags(Self::LOCKED.0 | Self::LOCKONFAULT.0);
    /// `VM_SPECIAL`: areas that never merge.
    pub const SPECIAL: Flags = Flags(Self::IO.0 | Self::DONTEXPAND.0 | Self::PFNMAP.0);

    /// Both sets.
    #[must_use]
    pub const fn union(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Those of `self` that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }

    /// Whether all of `other` are set.
    pub const fn contains(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is set.
    pub const fn intersects(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }

    /// The bits of a protection.
    pub fn of(protection: Protection) -> Flags {
        let bit = |on, flag: Flags| if on { flag } else { Flags::NONE };
        bit(protection.read, Flags::READ)
            .union(bit(protection.write, Flags::WRITE))
            .union(bit(protection.execute, Flags::EXEC))
    }

    /// The bits of what a driver's plan asks for.
    pub(crate) fn of_plan(flags: AreaFlags) -> Flags {
        [
            (AreaFlags::IO, Flags::IO),
            (AreaFlags::DONTEXPAND, Flags::DONTEXPAND),
            (AreaFlags::DONTDUMP, Flags::DONTDUMP),
        ]
        .into_iter()
        .filter(|(asked, _)| flags.contains(*asked))
        .fold(Flags::NONE, |all, (_, flag)| all.union(flag))
    }

    /// Whether a private copy is made at the first store (`is_cow_mapping`).
    pub(crate) fn is_cow(self) -> bool {
        self.0 & (Self::SHARED.0 | Self::MAYWRITE.0) == Self::MAYWRITE.0
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (_, name) in Self::NAMES.iter().filter(|(flag, _)| self.contains(*flag)) {
            write!(f, "{separator}{name}")?;
            separator = "|";
        }
        if separator.is_empty() { f.write_str("0") } else { Ok(()) }
    }
}

/// Which areas' anonymous pages the kernel finds together: `anon_vma`. An area has
/// one from its first private page on. It decides merging, so the engine keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Anon {
    pub id: u64,
    /// It came by fork, and pages may be shared with the parent still (the chain has
    /// more than one link: `vma_is_fork_child`).
    pub inherited: bool,
}

/// One area: a range of addresses with one protection, one set of flags, and one
/// object behind it.
pub struct Area<F> {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) flags: Flags,
    pub(crate) page_offset: u64,
    pub(crate) file: Option<Mapped<F>>,
    pub(crate) anon: Option<Anon>,
}

/// An area's reference to its file.
pub(crate) struct Mapped<F> {
    pub file: Arc<File<F>>,
    /// Counts the areas that map the object.
    pub(crate) _count: Arc<()>,
}

impl<F> Clone for Mapped<F> {
    fn clone(&self) -> Self {
        Mapped { file: self.file.clone(), _count: self._count.clone() }
    }
}

impl<F> Clone for Area<F> {
    fn clone(&self) -> Self {
        Area { file: self.file.clone(), ..*self }
    }
}

impl<F> Area<F> {
    /// The first address (`vm_start`).
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The first address past it (`vm_end`).
    pub fn end(&self) -> u64 {
        self.end
    }

    /// `vm_flags`.
    pub fn flags(&self) -> Flags {
        self.flags
    }

    /// The page of the object at which it begins (`vm_pgoff`); of anonymous memory,
    /// the page of the address where it was first.
    pub fn page_offset(&self) -> u64 {
        self.page_offset
    }

    /// What it maps (`vm_file`); `None`: anonymous memory.
    pub fn file(&self) -> Option<&Arc<File<F>>> {
        self.file.as_ref().map(|mapped| &mapped.file)
    }

    /// Whether both map the same open file, or none.
    pub(crate) fn has_file(&self, file: Option<&Arc<File<F>>>) -> bool {
        match (self.file(), file) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// The page of the object that stands at `address` (`linear_page_index`).
    pub(crate) fn page_offset_at(&self, address: u64, page_size: PageSize) -> u64 {
        self.page_offset + page_size.page_of(address - self.start)
    }
}

impl<F> fmt::Debug for Area<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:x}-{:x} {:?} {:x} {:?}",
            self.start, self.end, self.flags, self.page_offset, self.anon
        )
    }
}
