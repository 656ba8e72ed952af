//! `madvise(2)`: the advice that has a meaning here.

use devmap_driver::Errno;

use crate::{Area, Engine, Flags, Mmu, SpaceId};

/// What a program says of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// `MADV_NORMAL`.
    Normal,
    /// `MADV_RANDOM`.
    Random,
    /// `MADV_SEQUENTIAL`.
    Sequential,
    /// `MADV_WILLNEED`: files are read ahead.
    WillNeed,
    /// `MADV_DONTNEED`: the pages go; anonymous ones are zeros at the next access.
    DontNeed,
    /// `MADV_REMOVE`: a hole in the object.
    Remove,
    /// `MADV_DONTFORK`.
    DontFork,
    /// `MADV_DOFORK`.
    DoFork,
    /// `MADV_DONTDUMP`.
    DontDump,
    /// `MADV_DODUMP`.
    DoDump,
    /// `MADV_WIPEONFORK`.
    WipeOnFork,
    /// `MADV_KEEPONFORK`.
    KeepOnFork,
}

impl Advice {
    /// Of Linux's number; `None` for one that has no meaning here.
    pub fn from_raw(number: i32) -> Option<Advice> {
        Some(match number {
            0 => Advice::Normal,
            1 => Advice::Random,
            2 => Advice::Sequential,
            3 => Advice::WillNeed,
            4 => Advice::DontNeed,
            9 => Advice::Remove,
            10 => Advice::DontFork,
            11 => Advice::DoFork,
            16 => Advice::DontDump,
            17 => Advice::DoDump,
            18 => Advice::WipeOnFork,
            19 => Advice::KeepOnFork,
            _ => return None,
        })
    }

    /// The flags that the advice gives an area; `None`: it is no matter of flags.
    fn flags<F>(self, area: &Area<F>) -> Option<Result<Flags, Errno>> {
        let old = area.flags;
        let order = Flags::RAND_READ.union(Flags::SEQ_READ);
        Some(Ok(match self {
            Advice::Normal => old.without(order),
            Advice::Random => old.without(order).union(Flags::RAND_READ),
            Advice::Sequential => old.without(order).union(Flags::SEQ_READ),
            Advice::DontFork => old.union(Flags::DONTCOPY),
            Advice::DoFork if old.contains(Flags::IO) => return Some(Err(Errno::EINVAL)),
            Advice::DoFork => old.without(Flags::DONTCOPY),
            Advice::DontDump => old.union(Flags::DONTDUMP),
            Advice::DoDump if old.intersects(Flags::SPECIAL) => return Some(Err(Errno::EINVAL)),
            Advice::DoDump => old.without(Flags::DONTDUMP),
            Advice::WipeOnFork if area.file.is_some() => return Some(Err(Errno::EINVAL)),
            Advice::WipeOnFork => old.union(Flags::WIPEONFORK),
            Advice::KeepOnFork => old.without(Flags::WIPEONFORK),
            Advice::WillNeed | Advice::DontNeed | Advice::Remove => return None,
        }))
    }
}

impl<M: Mmu> Engine<M> {
    /// `madvise(2)`. What no area holds is skipped, and told at the end.
    ///
    /// # Errors
    /// `EINVAL`: the address is no multiple of a page, or the advice does not suit an
    /// area. `ENOMEM`: a part of the range is not mapped, or there would be too many
    /// areas. `EACCES`: a hole in what may not be written. `EBADF`: read-ahead of
    /// anonymous memory.
    pub fn advise(
        &mut self,
        space: SpaceId,
        start: u64,
        len: u64,
        advice: Advice,
    ) -> Result<(), Errno> {
        if !self.page_size().is_aligned(start) {
            return Err(Errno::EINVAL);
        }
        let aligned = self.page_align(len);
        if len > 0 && aligned == 0 {
            return Err(Errno::EINVAL);
        }
        let end = start.checked_add(aligned).ok_or(Errno::EINVAL)?;
        let mut result = Ok(());
        let mut at = start;
        while at < end {
            let Some(area) = self.space(space).areas.find(at) else { return Err(Errno::ENOMEM) };
            if area.start > at {
                result = Err(Errno::ENOMEM);
                at = area.start;
                continue;
            }
            let (area, to) = (area.clone(), area.end.min(end));
            self.advise_area(space, &area, at, to, advice)?;
            at = to;
        }
        result
    }

    fn advise_area(
        &mut self,
        space: SpaceId,
        area: &Area<M::Frame>,
        start: u64,
        end: u64,
        advice: Advice,
    ) -> Result<(), Errno> {
        if let Some(flags) = advice.flags(area) {
            let flags = flags?;
            if flags != area.flags {
                self.modify(space, start, end, flags)?;
            }
            return Ok(());
        }
        let locked = area.flags.contains(Flags::LOCKED);
        match advice {
            Advice::WillNeed => {
                let file = area.file().ok_or(Errno::EBADF)?;
                let first = area.page_offset_at(start, self.page_size());
                self.read_ahead(file, first..first + self.page_size().page_of(end - start));
                Ok(())
            }
            Advice::Remove => {
                let file = area.file().filter(|_| !locked).ok_or(Errno::EINVAL)?;
                if !area.flags.contains(Flags::SHARED.union(Flags::MAYWRITE)) {
                    return Err(Errno::EACCES);
                }
                if self.objects.get(file.object.0).spec.size.is_none() || file.content.is_some() {
                    return Err(Errno::EOPNOTSUPP);
                }
                let first = area.page_offset_at(start, self.page_size());
                let pages = first..first + self.page_size().page_of(end - start);
                self.punch_hole(file.object, pages);
                Ok(())
            }
            _ if locked || area.flags.contains(Flags::PFNMAP) => Err(Errno::EINVAL),
            _ => {
                self.zap_range(space, self.pages_of(start, end));
                Ok(())
            }
        }
    }
}
