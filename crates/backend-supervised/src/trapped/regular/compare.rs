//! What differs between two files. What is done about it is not here (`cache`).

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt};

use rustix::{fs::SeekFrom, io::Errno};

/// Where there is something else than a hole, from `at` on.
pub(super) fn next_data(file: &File, at: u64) -> Option<u64> {
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) => Some(data),
        Err(Errno::NXIO) => None,
        // Then all counts as something.
        Err(_) => Some(at),
    }
}

/// Reads as much as there is.
pub(super) fn read_whole(file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
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
pub(super) fn changed(ours: &[u8], theirs: &[u8], page_len: usize) -> Vec<Range<usize>> {
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
