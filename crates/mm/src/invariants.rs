//! What holds after every operation. Tests ask after each.

use alloc::collections::BTreeMap;

use crate::{Engine, Flags, Mmu, PageId, SpaceId, page::Kind};

impl<M: Mmu> Engine<M> {
    /// Checks the whole state: areas are in order and apart, of whole pages; every entry
    /// lies in an area, names a page that knows of it, and permits no more than the area
    /// does; a private area's entry for a shared page permits no store; the cache and its
    /// pages name each other; the count of frames is right.
    ///
    /// # Panics
    /// When something does not hold, with what it is.
    pub fn invariants(&self) {
        let mut mappers: BTreeMap<PageId, usize> = BTreeMap::new();
        for (space, state) in self.spaces.iter() {
            state.areas.check();
            for area in state.areas.from(0) {
                let page_size = self.page_size();
                assert!(area.start < area.end, "{area:?} is empty");
                assert!(page_size.is_aligned(area.start) && page_size.is_aligned(area.end));
                let file = area.file().map(|file| file.object);
                assert!(file.is_none_or(|object| self.objects.contains(object.0)));
            }
            for (at, entry) in self.entries(SpaceId(space), 0..u64::MAX) {
                let address = at * self.page_bytes();
                let area = state.areas.lookup(address);
                let area = area.unwrap_or_else(|| panic!("an entry for {address:x}, no area"));
                let page = self.pages.get(entry.page.0);
                *mappers.entry(entry.page).or_default() += 1;
                assert_eq!(entry.user, area.flags.intersects(Flags::ACCESS), "{area:?} {entry:?}");
                if entry.writable {
                    assert!(area.flags.contains(Flags::WRITE), "{area:?} {entry:?}");
                    let private = page.kind == Kind::Anonymous && page.mappers.len() == 1;
                    assert!(area.flags.contains(Flags::SHARED) || private, "{area:?} {entry:?}");
                }
                match page.kind {
                    Kind::Zero => assert!(area.file.is_none() && !entry.writable),
                    Kind::Anonymous => assert!(area.anon.is_some(), "{area:?} has private pages"),
                    Kind::Cached(object, index) => {
                        let expected = area.page_offset_at(address, self.page_size());
                        assert_eq!(area.file().map(|file| file.object), Some(object));
                        assert_eq!(index, expected, "the page of another place");
                    }
                    Kind::Driver => {}
                }
                let listed = page.mappers.contains(&(SpaceId(space), at));
                assert!(listed || page.kind == Kind::Zero, "{entry:?} is not in the reverse map");
            }
        }
        let mut frames = 0;
        for (id, page) in self.pages.iter() {
            let entries = mappers.get(&PageId(id)).copied().unwrap_or(0);
            frames += usize::from(page.kind != Kind::Driver);
            match page.kind {
                Kind::Zero => assert_eq!(self.zero, Some(PageId(id))),
                Kind::Cached(object, index) => {
                    assert_eq!(self.cache.pages.get(&(object, index)), Some(&PageId(id)));
                    assert_eq!(entries, page.mappers.len());
                }
                Kind::Anonymous | Kind::Driver => {
                    assert!(entries > 0, "page {id} is leaked");
                    assert_eq!(entries, page.mappers.len());
                }
            }
        }
        assert_eq!(frames, self.cache.frames, "frames are counted");
        for (key, page) in &self.cache.pages {
            assert_eq!(self.pages.get(page.0).kind, Kind::Cached(key.0, key.1));
        }
    }
}
