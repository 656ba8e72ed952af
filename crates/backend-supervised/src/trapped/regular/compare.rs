//! What differs between two files, of which programs may change one meanwhile. What is done
//! about it is not here (`cache`).

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt};

use rustix::{fs::SeekFrom, io::Errno};

/// So many bytes are read at once.
const CHUNK: u64 = 256 << 10;

/// Copies the content; holes stay holes.
pub(super) fn copy(from: &File, to: &File) -> io::Result<()> {
    to.set_len(from.metadata()?.len())?;
    let mut bytes = vec![0; CHUNK as usize];
    let mut at = 0;
    while let Some(data) = next_data(from, at) {
        let count = read_whole(from, &mut bytes, data)?;
        if count == 0 {
            break;
        }
        to.write_all_at(&bytes[..count], data)?;
        at = data + count as u64;
    }
    Ok(())
}

/// Tells each run of pages in `bytes` in which `ours` differs from `theirs`, in order: where,
/// and what is there. The last page may be a part of one. What a program has cut off meanwhile
/// is left to the look that this calls for.
pub(super) fn changes(
    ours: &File,
    theirs: &File,
    bytes: Range<u64>,
    page_len: u64,
    mut tell: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let (mut here, mut there) = (vec![0; CHUNK as usize], vec![0; CHUNK as usize]);
    let mut at = bytes.start;
    // What is a hole in both is zeros in both.
    while let Some(data) = [ours, theirs].into_iter().filter_map(|file| next_data(file, at)).min()
        && data < bytes.end
    {
        let start = data / page_len * page_len;
        let most = CHUNK.min(bytes.end - start) as usize;
        let len = read_whole(ours, &mut here[..most], start)?;
        let had = read_whole(theirs, &mut there[..len], start)?;
        there[had..len].fill(0);
        for run in changed(&here[..len], &there[..len], page_len as usize) {
            tell(start + run.start as u64, &here[run])?;
        }
        if len < most {
            // It ends here now, whatever there is in the other one.
            break;
        }
        at = start + len as u64;
    }
    Ok(())
}

/// Where there is something else than a hole, from `at` on.
fn next_data(file: &File, at: u64) -> Option<u64> {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => Some(data),
        Err(Errno::NXIO) => None,
        // Then all counts as something.
        Err(_) => Some(at),
    }
}

/// Reads as much as there is.
fn read_whole(file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], at + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// The runs of pages that differ; the last page may be a part of one.
fn changed(ours: &[u8], theirs: &[u8], page_len: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let pages = ours.chunks(page_len).zip(theirs.chunks(page_len)).enumerate();
    for (page, _) in pages.filter(|(_, (ours, theirs))| ours != theirs) {
        let (start, end) = (page * page_len, ours.len().min((page + 1) * page_len));
        match runs.last_mut() {
            Some(run) if run.end == start => run.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(len: u64, pages: &[u64]) -> File {
        let file = File::from(devmap_sys::memfd::create_open_ended("test", 0o600).unwrap());
        file.set_len(len).unwrap();
        for page in pages {
            file.write_all_at(&[1; 16], page * 4096).unwrap();
        }
        file
    }

    fn told(ours: &File, theirs: &File, bytes: Range<u64>) -> Vec<(u64, usize)> {
        let mut told = Vec::new();
        let tell = |at, bytes: &[u8]| {
            told.push((at, bytes.len()));
            Ok(())
        };
        changes(ours, theirs, bytes, 4096, tell).unwrap();
        told
    }

    #[test]
    fn changes_are_told_in_order_and_holes_are_zeros() {
        let page = 4096;
        let (ours, theirs) =
            (file(1000 * page + 16, &[0, 7, 8, 1000]), file(1000 * page + 16, &[]));
        let all = [(0, 4096), (7 * page, 8192), (1000 * page, 16)];
        assert_eq!(told(&ours, &theirs, 0..u64::MAX), all);
        assert_eq!(told(&theirs, &ours, 0..1000 * page + 16), all);
        assert_eq!(told(&ours, &theirs, 8 * page + 3..9 * page), [(8 * page, 4096)]);
        copy(&ours, &theirs).unwrap();
        assert!(told(&ours, &theirs, 0..u64::MAX).is_empty());
    }

    #[test]
    fn what_is_cut_meanwhile_ends_the_look() {
        let theirs = file(8192, &[0, 1]);
        for cut in [0, 1, 4096, 5000] {
            let ours = file(8192, &[0, 1]);
            ours.set_len(cut).unwrap();
            assert!(told(&ours, &theirs, 0..8192).is_empty(), "{cut}");
        }
    }

    #[test]
    fn changed_pages_are_found_in_runs() {
        let theirs = [0; 10];
        let mut ours = theirs;
        assert!(changed(&ours, &theirs, 2).is_empty());
        (ours[1], ours[2], ours[9]) = (1, 1, 1);
        assert_eq!(changed(&ours, &theirs, 2), [0..4, 8..10]);
        assert!(changed(&ours[4..9], &theirs[4..9], 2).is_empty());
        ours[8] = 1;
        assert_eq!(changed(&ours[..9], &theirs[..9], 2), [0..4, 8..9]);
    }
}
