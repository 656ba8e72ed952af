//! Page tables of four levels, with entries as the x86 processor has them. Not the
//! frames that they name.

use devmap_driver::{Access, Errno};
use devmap_mm::{Entry, PageId, Table};

use crate::Failures;

/// How many levels there are.
const LEVELS: u32 = 4;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// Where the number of the page begins.
const NUMBER: u32 = 12;

fn pack(entry: Entry) -> u64 {
    let bit = |on, bit| if on { bit } else { 0 };
    u64::from(entry.page.0) << NUMBER
        | PRESENT
        | bit(entry.writable, WRITABLE)
        | bit(entry.user, USER)
        | bit(entry.accessed, ACCESSED)
        | bit(entry.dirty, DIRTY)
}

fn unpack(bits: u64) -> Option<Entry> {
    (bits & PRESENT != 0).then_some(Entry {
        page: PageId((bits >> NUMBER) as u32),
        writable: bits & WRITABLE != 0,
        user: bits & USER != 0,
        accessed: bits & ACCESSED != 0,
        dirty: bits & DIRTY != 0,
    })
}

/// A table of any level.
enum Node {
    /// The lowest level: entries.
    Entries(Box<[u64]>),
    /// Tables of the level below.
    Tables(Box<[Option<Part>]>),
}

/// A table below another.
struct Part {
    node: Node,
    /// How many of its slots are in use; one with none is dropped.
    used: u32,
}

/// The page table of one address space.
pub struct PageTable {
    root: Part,
    /// How many bits of the page's number each level takes.
    bits: u32,
    failures: Failures,
}

impl PageTable {
    /// An empty table for pages of `1 << page_shift` bytes.
    pub(crate) fn new(page_shift: u32, failures: Failures) -> PageTable {
        // A table is one page of entries of 8 bytes.
        let bits = page_shift - 3;
        PageTable { root: Part::new(LEVELS - 1, bits), bits, failures }
    }

    /// The entry's bits, where all tables above it are there.
    fn slot(&mut self, page: u64) -> Option<&mut u64> {
        let mask = (1 << self.bits) - 1;
        let mut part = &mut self.root;
        for level in (0..LEVELS).rev() {
            let index = (page >> (level * self.bits) & mask) as usize;
            match &mut part.node {
                Node::Entries(entries) => return Some(&mut entries[index]),
                Node::Tables(tables) => part = tables[index].as_mut()?,
            }
        }
        None
    }
}

impl Part {
    fn new(level: u32, bits: u32) -> Part {
        let len = 1 << bits;
        let node = if level == 0 {
            Node::Entries(vec![0; len].into())
        } else {
            Node::Tables(std::iter::repeat_with(|| None).take(len).collect())
        };
        Part { node, used: 0 }
    }

    fn set(
        &mut self,
        level: u32,
        page: u64,
        new: u64,
        table: (u32, &Failures),
    ) -> Result<(), Errno> {
        let (bits, failures) = table;
        let index = (page >> (level * bits) & ((1 << bits) - 1)) as usize;
        match &mut self.node {
            Node::Entries(entries) => {
                self.used += u32::from(entries[index] & PRESENT == 0);
                entries[index] = new;
                Ok(())
            }
            Node::Tables(tables) => {
                if let Some(part) = &mut tables[index] {
                    return part.set(level - 1, page, new, table);
                }
                if failures.allocations().happens() {
                    return Err(Errno::ENOMEM);
                }
                let mut part = Part::new(level - 1, bits);
                part.set(level - 1, page, new, table)?;
                tables[index] = Some(part);
                self.used += 1;
                Ok(())
            }
        }
    }

    fn clear(&mut self, level: u32, page: u64, bits: u32) -> Option<u64> {
        let index = (page >> (level * bits) & ((1 << bits) - 1)) as usize;
        let old = match &mut self.node {
            Node::Entries(entries) => {
                self.used -= u32::from(entries[index] & PRESENT != 0);
                return Some(std::mem::take(&mut entries[index]));
            }
            Node::Tables(tables) => {
                let part = tables[index].as_mut()?;
                let old = part.clear(level - 1, page, bits)?;
                if part.used > 0 {
                    return Some(old);
                }
                tables[index] = None;
                old
            }
        };
        self.used -= 1;
        Some(old)
    }

    /// The first present entry at or after `page`; `base` is the first page here.
    fn next(&self, level: u32, base: u64, page: u64, bits: u32) -> Option<(u64, Entry)> {
        let first = (page.saturating_sub(base) >> (level * bits)) as usize;
        match &self.node {
            Node::Entries(entries) => (first..entries.len())
                .find_map(|index| Some((base + index as u64, unpack(entries[index])?))),
            Node::Tables(tables) => (first..tables.len()).find_map(|index| {
                let below = base + ((index as u64) << (level * bits));
                tables[index].as_ref()?.next(level - 1, below, page, bits)
            }),
        }
    }
}

impl Table for PageTable {
    fn set(&mut self, page: u64, entry: Entry) -> Result<(), Errno> {
        self.root.set(LEVELS - 1, page, pack(entry), (self.bits, &self.failures))
    }

    fn get(&self, page: u64) -> Option<Entry> {
        self.next(page).filter(|(at, _)| *at == page).map(|(_, entry)| entry)
    }

    fn clear(&mut self, page: u64) -> Option<Entry> {
        unpack(self.root.clear(LEVELS - 1, page, self.bits)?)
    }

    fn next(&self, page: u64) -> Option<(u64, Entry)> {
        self.root.next(LEVELS - 1, 0, page, self.bits)
    }

    fn walk(&mut self, page: u64, access: Access) -> Option<PageId> {
        let slot = self.slot(page)?;
        let entry = unpack(*slot)?;
        match access {
            Access::Read if entry.user => *slot |= ACCESSED,
            Access::Write if entry.user && entry.writable => *slot |= ACCESSED | DIRTY,
            _ => return None,
        }
        Some(entry.page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(page: u32) -> Entry {
        Entry { page: PageId(page), writable: false, user: true, accessed: false, dirty: false }
    }

    #[test]
    fn entries_come_and_go() {
        let mut table = PageTable::new(12, Failures::default());
        let pages = [0, 1, 511, 512, 1 << 18, (1 << 36) - 1];
        for (number, page) in pages.into_iter().enumerate() {
            table.set(page, entry(number as u32)).unwrap();
        }
        let found: Vec<u64> = std::iter::successors(table.next(0), |(at, _)| table.next(at + 1))
            .map(|(at, _)| at)
            .collect();
        assert_eq!(found, pages);
        assert_eq!(table.get(2), None);
        assert_eq!(table.walk(1, Access::Write), None);
        assert_eq!(table.walk(1, Access::Read), Some(PageId(1)));
        assert!(table.get(1).unwrap().accessed);
        for page in pages {
            assert!(table.clear(page).is_some());
            assert_eq!(table.clear(page), None);
        }
        assert_eq!(table.next(0), None);
        assert_eq!(table.root.used, 0, "empty tables are dropped");
    }

    #[test]
    fn a_refused_table_changes_nothing() {
        for n in 1..=3 {
            let failures = Failures::default();
            let mut table = PageTable::new(14, failures.clone());
            failures.allocations().fail(n);
            assert_eq!(table.set(7, entry(1)), Err(Errno::ENOMEM));
            assert_eq!(table.root.used, 0);
            assert_eq!(table.set(7, entry(1)), Ok(()));
            assert_eq!(table.get(7), Some(entry(1)));
        }
    }
}
