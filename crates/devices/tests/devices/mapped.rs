//! The devices that are mapped, and `hello`.

use devmap_devices::{NoOptions, demo::Demo, hello, mem, pattern, zero::Zero};
use devmap_driver::{
    Access, AreaFlags, Device, Errno, Fault, Memory, NewArea, Plan, PollEvents, SeekFrom, Source,
    Supply,
};

use crate::mock::{Mock, PAGE, Page, Pages, Program, area, poll};

fn plan(device: &impl Device<Mock, File = ()>, area: &NewArea) -> Result<Plan<Pages>, Errno> {
    let plan = device.mmap(&(), area)?;
    assert_eq!(plan.validate(area, |memory| memory.pages()), Ok(()));
    Ok(plan)
}

/// The memory and its first page, of a plan that is one remap extent.
fn remapped(plan: &Plan<Pages>) -> (Pages, u64) {
    match plan.extents().collect::<Vec<_>>()[..] {
        [extent] => match &extent.source {
            Source::Remap { memory, first_page } => (memory.clone(), *first_page),
            Source::Fault => panic!("not a remap extent"),
        },
        _ => panic!("not one extent"),
    }
}

#[test]
fn demo_maps_its_two_areas() {
    let device = Demo::new(&Mock::new(), &NoOptions).unwrap();
    for (first_page, tag, contiguous) in [(0, 0xaffe_u32, false), (16, 0xdead, true)] {
        for pages in [1, 15, 16] {
            let plan = plan(&device, &area(first_page, pages)).unwrap();
            assert!(plan.area_flags().contains(AreaFlags::IO.union(AreaFlags::RESERVED)));
            let (memory, from) = remapped(&plan);
            assert_eq!((memory.contiguous, memory.len(), from), (contiguous, 16 * PAGE, 0));
            for i in (0..memory.len() as u32 / 4).step_by(2) {
                assert_eq!(memory.load_u32(u64::from(i) * 4), Ok((tag << 16) + i));
                assert_eq!(memory.load_u32(u64::from(i) * 4 + 4), Ok((0xbeef << 16) + i));
            }
        }
        assert_eq!(plan(&device, &area(first_page, 17)).err(), Some(Errno::EIO));
    }
    for first_page in [1, 15, 17, 32, 1 << 40] {
        assert_eq!(plan(&device, &area(first_page, 1)).err(), Some(Errno::EIO));
    }
}

#[test]
fn demo_leaves_the_rest_out() {
    let device = Demo::new(&Mock::new(), &NoOptions).unwrap();
    let program = Program::with_len(8);
    assert_eq!(program.read(&device, 0), Err(Errno::EINVAL));
    assert_eq!(program.write(&device, 0), Err(Errno::EINVAL));
    assert_eq!(Device::<Mock>::llseek(&device, &(), SeekFrom::Start(0)), Err(Errno::ESPIPE));
    assert_eq!(poll(&device), PollEvents::DEFAULT);
}

#[test]
fn mem_maps_its_block() {
    let device = mem::Mem::new(&Mock::new(), &mem::Options { size: 3 * PAGE + 1 }).unwrap();
    let whole = plan(&device, &area(0, 4)).unwrap();
    assert!(whole.area_flags().contains(AreaFlags::IO.union(AreaFlags::RESERVED)));
    let (block, _) = remapped(&whole);
    assert!(block.contiguous);
    let tail = plan(&device, &area(2, 2)).unwrap();
    assert_eq!(remapped(&tail), (block, 2));
    for (first_page, pages) in [(0, 5), (1, 4), (4, 1), (1 << 50, 1)] {
        assert_eq!(plan(&device, &area(first_page, pages)).err(), Some(Errno::EINVAL));
    }
}

#[test]
fn mem_reads_and_writes_what_is_mapped() {
    let device = mem::Mem::new(&Mock::new(), &mem::Options { size: PAGE }).unwrap();
    let (block, _) = remapped(&plan(&device, &area(0, 1)).unwrap());
    let text: Vec<u8> = (0..1500).map(|i| i as u8).collect();
    assert_eq!(Program::new(&text).write(&device, 100), Ok(1500));
    let mut seen = vec![0; 1500];
    block.read(100, &mut seen).unwrap();
    assert_eq!(seen, text);
    let program = Program::with_len(1500);
    assert_eq!(program.read(&device, 100), Ok(1500));
    assert_eq!(*program.bytes.borrow(), text);
    assert_eq!(program.read(&device, PAGE - 10), Ok(10));
    assert_eq!(program.read(&device, PAGE), Ok(0));
    assert_eq!(program.read(&device, u64::MAX), Ok(0));
    assert_eq!(program.write(&device, PAGE - 10), Ok(10));
    assert_eq!(program.write(&device, PAGE), Err(Errno::ENOSPC));
    assert_eq!(Program::with_len(0).write(&device, PAGE), Ok(0));
    let seek = |to| Device::<Mock>::llseek(&device, &(), to);
    assert_eq!(seek(SeekFrom::End(-1)), Ok(PAGE - 1));
    assert_eq!(seek(SeekFrom::End(1)), Err(Errno::EINVAL));
}

#[test]
fn a_transfer_that_faults_midway_ends_short() {
    let device = mem::Mem::new(&Mock::new(), &mem::Options { size: PAGE }).unwrap();
    assert_eq!(Program::with_len(1024).read_past(&device, 2000), Ok(1024));
    assert_eq!(Program::with_len(0).read_past(&device, 2000), Err(Errno::EFAULT));
}

#[test]
fn zero_gives_each_map_its_own_memory() {
    let device = Zero::new(&Mock::new(), &NoOptions).unwrap();
    let (one, first) = remapped(&plan(&device, &area(7, 3)).unwrap());
    let (other, _) = remapped(&plan(&device, &area(7, 3)).unwrap());
    assert_eq!((one.pages(), first, one.contiguous), (3, 0, false));
    assert_ne!(one, other);
    let program = Program::new(&[1; 2000]);
    assert_eq!(program.write(&device, u64::MAX), Ok(2000));
    assert_eq!(program.read(&device, 1 << 40), Ok(2000));
    assert!(program.bytes.borrow().iter().all(|byte| *byte == 0));
    assert_eq!(Device::<Mock>::llseek(&device, &(), SeekFrom::End(-5)), Ok(0));
    let refusing = Zero::new(&Mock::granting(0), &NoOptions).unwrap();
    assert_eq!(plan(&refusing, &area(0, 1)).err(), Some(Errno::ENOMEM));
}

#[test]
fn hello_is_read_to_its_end() {
    let device = hello::Hello::new(&Mock::new(), &NoOptions).unwrap();
    let program = Program::with_len(100);
    assert_eq!(program.read(&device, 0), Ok(hello::TEXT.len()));
    assert!(program.bytes.borrow().starts_with(hello::TEXT));
    assert_eq!(program.read(&device, hello::TEXT.len() as u64), Ok(0));
    assert_eq!(program.write(&device, 0), Err(Errno::EINVAL));
    assert_eq!(plan(&device, &area(0, 1)).err(), Some(Errno::ENODEV));
}

#[test]
fn pattern_words_hold_their_offsets() {
    let options = pattern::Options { size: pattern::MAX_SIZE };
    let device = pattern::Pattern::new(&Mock::new(), &options).unwrap();
    let last = pattern::MAX_SIZE / PAGE - 1;
    for page in [0, 1, 12345, last] {
        let area = area(page, 1);
        let plan = plan(&device, &area).unwrap();
        assert!(plan.extents().all(|extent| extent.source == Source::Fault));
        let mut bytes = Page(vec![0; PAGE as usize]);
        let fault = Fault::new(&area, 0, Access::Read);
        let supply: Supply<Pages> =
            Device::<Mock>::fault(&device, &(), &fault, &mut bytes).unwrap();
        assert!(matches!(supply, Supply::Filled));
        for (i, word) in bytes.0.chunks(8).enumerate() {
            let word = u64::from_le_bytes(word.try_into().unwrap());
            assert_eq!(word, page * PAGE + i as u64 * 8);
        }
        // Reads at any alignment give the same bytes.
        for (start, len) in [(0, 4096), (3, 2), (3, 20), (7, 1), (8, 13), (501, 1000)] {
            let program = Program::with_len(len);
            assert_eq!(program.read(&device, page * PAGE + start as u64), Ok(len));
            assert_eq!(*program.bytes.borrow(), bytes.0[start..start + len]);
        }
    }
    assert_eq!(plan(&device, &area(last, 2)).err(), Some(Errno::EINVAL));
    let past = Fault { page: last + 1, access: Access::Read };
    let mut bytes = Page(vec![0; PAGE as usize]);
    let supply = Device::<Mock>::fault(&device, &(), &past, &mut bytes);
    assert_eq!(supply.err(), Some(Errno::EIO));
    assert_eq!(Program::with_len(9).read(&device, pattern::MAX_SIZE), Ok(0));
}
