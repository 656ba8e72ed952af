//! Pages of one device that are kept: in the pieces in which they came, so that what came
//! at once is copied at once. No page is in two pieces.

use std::{collections::BTreeMap, ops::Range};

/// The pages of one device that are kept, by the first page of each piece.
#[derive(Default)]
pub(super) struct Kept(BTreeMap<u64, Box<[u8]>>);

/// What comes first of some pages that are asked for, and how many bytes of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// They are kept, and have been copied.
    Kept(usize),
    /// They are not.
    Missing(usize),
}

impl Kept {
    /// Where `page` is in the piece that has it, in bytes.
    fn find(&mut self, page_len: u64, page: u64) -> Option<&mut [u8]> {
        let (first, piece) = self.0.range_mut(..=page).next_back()?;
        let at = usize::try_from((page - first).checked_mul(page_len)?).ok()?;
        piece.get_mut(at..).filter(|rest| !rest.is_empty())
    }

    /// How many of `len` bytes are before the next piece that begins after `page`.
    fn before_next(&self, page_len: u64, page: u64, len: usize) -> usize {
        let next = self.0.range(page + 1..).next().map(|(next, _)| (next - page) * page_len);
        next.map_or(len, |next| len.min(usize::try_from(next).unwrap_or(len)))
    }

    /// Copies the pages from `page` on to `into`, as many as are kept side by side.
    pub(super) fn read(&mut self, page_len: u64, page: u64, into: &mut [u8]) -> Part {
        match self.find(page_len, page) {
            Some(piece) => {
                let len = piece.len().min(into.len());
                into[..len].copy_from_slice(&piece[..len]);
                Part::Kept(len)
            }
            None => Part::Missing(self.before_next(page_len, page, into.len())),
        }
    }

    /// Keeps whole pages from `page` on.
    pub(super) fn write(&mut self, page_len: u64, page: u64, bytes: &[u8]) {
        let (mut page, mut bytes) = (page, bytes);
        while !bytes.is_empty() {
            let len = match self.find(page_len, page) {
                Some(piece) => {
                    let len = piece.len().min(bytes.len());
                    piece[..len].copy_from_slice(&bytes[..len]);
                    len
                }
                None => {
                    let len = self.before_next(page_len, page, bytes.len());
                    self.0.insert(page, bytes[..len].into());
                    len
                }
            };
            bytes = &bytes[len..];
            page += len as u64 / page_len;
        }
    }

    /// Keeps the pieces no longer that begin in `pages`.
    pub(super) fn remove(&mut self, pages: &Range<u64>) {
        if self.0.range(pages.clone()).next().is_some() {
            self.0.retain(|page, _| !pages.contains(page));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_filled_and_gaps_are_found() {
        let mut kept = Kept::default();
        let mut bytes = [9; 14];
        assert_eq!(kept.read(2, 3, &mut bytes), Part::Missing(14));
        kept.write(2, 3, &[1; 4]);
        kept.write(2, 6, &[2; 2]);
        // Over both pieces and the gap between them.
        kept.write(2, 4, &[3; 8]);
        assert_eq!(kept.0.keys().copied().collect::<Vec<_>>(), [3, 5, 6, 7]);
        assert_eq!(kept.read(2, 1, &mut bytes), Part::Missing(4));
        assert_eq!(kept.read(2, 3, &mut bytes), Part::Kept(4));
        assert_eq!(bytes[..5], [1, 1, 3, 3, 9]);
        assert_eq!(kept.read(2, 4, &mut bytes[..1]), Part::Kept(1));
        assert_eq!(kept.read(2, 8, &mut bytes), Part::Missing(14));
        kept.remove(&(4..6));
        assert_eq!(kept.read(2, 4, &mut bytes), Part::Kept(2));
        assert_eq!(kept.read(2, 5, &mut bytes), Part::Missing(2));
    }
}
