//! Joiners that want to hang the daemon, to have it leak, or to get what is not theirs.

use std::{
    net::UdpSocket,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use devmap_driver::{Errno, Fsync, NewArea, OpenFlags, PageSize, Platform, Protection, Sharing};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::{DEADLINE, Honest, Host, READ_WRITE, Raw, Served, greet, place, send, socket};
use crate::service::{
    daemon::Limits,
    wire::{Answer, CHUNK, Control, Copies, Method, News, Step, WireArea, decode, encode},
};

/// Whether nothing more comes on a lane.
fn is_at_its_end(lane: &OwnedFd) -> bool {
    let mut buffer = [0; 64];
    matches!(socket::receive_within(lane.as_fd(), &mut buffer, DEADLINE), Ok([]))
}

/// Two lanes of one number: the first of them, too, ends with the joiner.
#[test]
fn a_lane_twice() {
    let served = Served::new(DEADLINE);
    let mut raw = served.raw();
    let lane = raw.lane();
    raw.open(&lane);
    raw.next = 0;
    let _same = raw.lane();
    raw.is_hung_up_on("a lane twice");
    assert!(is_at_its_end(&lane));
    served.wait_for_opens(0);
}

/// A lane has an end that the daemon can make: not so other descriptors, some of which would keep
/// a thread of it for ever.
#[test]
fn lanes_that_are_none() {
    let served = Served::new(DEADLINE);
    let honest = served.honest();
    let socket = |family, sort| {
        rustix::net::socket_with(family, sort, SocketFlags::CLOEXEC, None).expect("a socket")
    };
    let lanes = [
        ("netlink", socket(AddressFamily::NETLINK, SocketType::DGRAM)),
        ("unconnected", socket(AddressFamily::UNIX, SocketType::SEQPACKET)),
        ("udp", UdpSocket::bind("127.0.0.1:0").expect("a socket").into()),
        ("stream", UnixStream::pair().expect("a pair").0.into()),
        ("pipe", std::io::pipe().expect("a pipe").0.into()),
    ];
    for (what, lane) in lanes {
        let raw = served.raw();
        raw.control(&Control::Lane { lane: 0 }, Some(&lane));
        raw.is_hung_up_on(what);
    }
    honest.is_served();
}

/// Who holds the daemon's end of a lane too can change how long its calls wait, and take what
/// is for the daemon. No driver waits longer for that.
#[test]
fn a_lane_that_the_joiner_holds_as_well() {
    let served = Served::new(Duration::from_millis(50));
    let honest = served.honest();
    let mut raw = served.raw();
    let (lane, theirs) = socket::pair().expect("a socket pair");
    raw.control(&Control::Lane { lane: 0 }, Some(&theirs));
    let open = raw.open(&lane);
    for timeout in [sockopt::Timeout::Send, sockopt::Timeout::Recv] {
        sockopt::set_socket_timeout(&theirs, timeout, None).expect("no timeout");
    }
    send(&lane, Method::Read { open, place: place(u64::MAX), copies: Copies::Buffered });
    raw.is_hung_up_on("a read, never received");
    honest.moves_by_itself();
    served.wait_for_opens(1);
}

/// Each answer comes in time, and yet the driver would wait for hours.
#[test]
fn a_joiner_that_is_slow_in_all() {
    let served = Served::new(Duration::from_millis(50));
    let honest = served.honest();
    let mut raw = served.raw();
    let lane = raw.lane();
    let open = raw.open(&lane);
    let place = place(1000 * CHUNK as u64);
    send(&lane, Method::Write { open, place, head: &[], copies: Copies::Checked });
    let mut answers = 0;
    loop {
        match socket::receive(&lane, &mut raw.buffer).ok().and_then(decode::<Step<'_>>) {
            Some(Step::CopyIn { len, .. }) => {
                std::thread::sleep(Duration::from_millis(10));
                let bytes = vec![0; len as usize];
                let answer = Answer::Copied(Ok(&bytes));
                let _ = socket::send(&lane, encode(&answer, &mut Vec::new()), &[]);
                answers += 1;
            }
            // It has been hung up on.
            None => break,
            step => panic!("{step:?}"),
        }
        assert!(answers < 10);
    }
    raw.is_hung_up_on("slow");
    honest.moves_by_itself();
    served.wait_for_opens(1);
}

/// More joiners give a user no more lanes and open files; others have their own.
#[test]
fn a_user_has_limits_for_all_joiners() {
    let limits = Limits { patience: DEADLINE, lanes_of_a_user: 5, opens_of_a_user: 7 };
    let served = Served::within(limits);
    let honest = served.honest();
    let (mut one, mut two) = (served.raw(), served.raw());
    let lanes: Vec<_> = (0..3).map(|_| one.lane()).collect();
    for _ in 0..4 {
        one.open(&lanes[2]);
    }
    let others: Vec<_> = (0..2).map(|_| two.lane()).collect();
    for _ in 0..3 {
        two.open(&others[1]);
    }
    let open = Method::Open { device: 0, flags: READ_WRITE.into(), pid: 1 };
    assert_eq!(two.value(&others[0], open), Err(Errno::ENFILE));
    let refused = two.lane();
    let open = Method::Open { device: 0, flags: READ_WRITE.into(), pid: 1 };
    assert!(matches!(two.ask(&refused, open), Some(Step::Refused)));
    honest.is_served();
    // What has ended makes room.
    drop((one, lanes));
    served.wait_for_opens(1 + 3);
    loop {
        let fresh = two.lane();
        let open = Method::Open { device: 0, flags: READ_WRITE.into(), pid: 1 };
        match two.ask(&fresh, open) {
            Some(Step::Done { result: Ok(_), .. }) => break,
            // Its threads end a moment after what it had open.
            Some(Step::Refused) => {}
            step => panic!("{step:?}"),
        }
    }
    honest.is_served();
}

impl Raw {
    /// What a fault is answered with: the first byte of the page.
    fn fault(&mut self, lane: &OwnedFd, open: u64, page: u64) -> Result<u8, Errno> {
        match self.ask(lane, Method::Fault { open, page, write: false }) {
            Some(Step::Filled { bytes }) => Ok(bytes[0]),
            Some(Step::Done { result: Err(errno), .. }) => Err(errno.into()),
            step => panic!("{step:?}"),
        }
    }

    fn writes_back(
        &mut self,
        lane: &OwnedFd,
        page_size: PageSize,
        pages: (u64, usize),
    ) -> Result<(), Errno> {
        let bytes = vec![9; pages.1 * page_size.bytes() as usize];
        let offset = pages.0.wrapping_mul(page_size.bytes());
        self.value(lane, Method::WriteBack { device: 0, offset, bytes: &bytes }).map(drop)
    }

    /// Whether a map of these pages is planned.
    fn maps(&mut self, lane: &OwnedFd, open: u64, page_size: PageSize, pages: (u64, u64)) -> bool {
        let (first, count) = pages;
        let area = NewArea::new(page_size, first, count, Protection::READ, Sharing::Shared);
        let area = WireArea::from(&area.expect("an area"));
        matches!(self.ask(lane, Method::Mmap { open, area }), Some(Step::Planned { .. }))
    }
}

/// Pages that the driver refuses to map it is not asked for either.
#[test]
fn faults_are_of_pages_that_a_plan_gave() {
    let served = Served::new(DEADLINE);
    let page_size = served.daemon.host.page_size();
    let mut raw = served.raw();
    let lane = raw.lane();
    let (open, other) = (raw.open(&lane), raw.open(&lane));
    assert_eq!(raw.fault(&lane, open, 5), Err(Errno::EFAULT));
    assert!(raw.maps(&lane, open, page_size, (5, 2)));
    assert!(!raw.maps(&lane, open, page_size, (7, 2)));
    assert!(raw.maps(&lane, open, page_size, (0, 2)));
    let answers = [0, 1, 4, 5, 6, 7, 8, u64::MAX].map(|page| raw.fault(&lane, open, page).ok());
    assert_eq!(answers, [None, None, None, Some(5), Some(6), None, None, None]);
    assert_eq!(raw.fault(&lane, other, 5), Err(Errno::EFAULT));
}

/// What no plan gave for writing none of its programs can have stored to; else all who share the
/// device would find it there.
#[test]
fn pages_that_come_back_are_of_those_that_a_plan_gave() {
    let served = Served::new(DEADLINE);
    let page_size = served.daemon.host.page_size();
    let (mut raw, mut other) = (served.raw(), served.raw());
    let (lane, others) = (raw.lane(), other.lane());
    let open = raw.open(&lane);
    let read_only = OpenFlags { write: false, ..READ_WRITE };
    let open_only = Method::Open { device: 0, flags: read_only.into(), pid: 1 };
    let reader = raw.value(&lane, open_only).expect("it opens");
    assert!(raw.maps(&lane, reader, page_size, (4, 1)));
    assert!(raw.maps(&lane, open, page_size, (5, 1)));
    // Two files may have stored to what comes back at once.
    let second = raw.open(&lane);
    assert!(raw.maps(&lane, second, page_size, (6, 1)));
    let mut outcomes = |pages: &[(u64, usize)]| {
        let outcome = |at: &(u64, usize)| raw.writes_back(&lane, page_size, *at).err();
        pages.iter().map(outcome).collect::<Vec<_>>()
    };
    let wrong = [(0, 1), (4, 1), (4, 2), (5, 3), (7, 1), (8, 1), (1 << 40, 1)];
    assert_eq!(outcomes(&wrong), [Some(Errno::EFAULT); 7]);
    assert_eq!(outcomes(&[(5, 1), (6, 1), (5, 2)]), [None; 3]);
    // Its kernel gives back what is stored to until all maps are gone, and releases then.
    let closed = raw.value(&lane, Method::Close { open });
    assert_eq!((closed, raw.writes_back(&lane, page_size, (5, 1))), (Ok(0), Ok(())));
    let released = raw.value(&lane, Method::Release { open });
    let late = raw.writes_back(&lane, page_size, (5, 1));
    assert_eq!((released, late), (Ok(0), Err(Errno::EFAULT)));
    let theirs = other.open(&others);
    assert!(other.maps(&others, theirs, page_size, (4, 4)));
    let seen = [4, 5, 6, 7].map(|page| other.fault(&others, theirs, page));
    assert_eq!(seen, [Ok(4), Ok(9), Ok(9), Ok(7)]);
}

/// Others wait for who does not forget pages, but not for ever, and not again until it answers;
/// an answer to nothing is nonsense.
#[test]
fn a_joiner_that_does_not_forget_pages() {
    let served = Served::new(Duration::from_millis(50));
    let page_size = served.daemon.host.page_size();
    let Honest { node, file, .. } = served.honest();
    let area = NewArea::new(page_size, 4, 4, Protection::READ_WRITE, Sharing::Shared);
    node.device.mmap(&file, &area.expect("an area")).expect("it maps");
    let mut raw = served.raw();
    let lane = raw.lane();
    let open = raw.open(&lane);
    assert!(raw.maps(&lane, open, page_size, (4, 4)));
    let stores = |byte: u8| {
        let page = vec![byte; page_size.bytes() as usize];
        assert_eq!(node.device.write_back(5 * page_size.bytes(), &page), Ok(()));
        // The driver has none.
        assert_eq!(node.device.fsync(&file, Fsync::All), Err(Errno::EINVAL));
    };
    // Nobody has the page.
    stores(1);
    for byte in 1..4 {
        assert_eq!(raw.fault(&lane, open, 5), Ok(byte));
        stores(byte + 1);
        let news = socket::receive(&raw.control, &mut raw.buffer).ok().and_then(decode::<News>);
        assert!(matches!(news, Some(News::Changed { device: 0 })), "{news:?}");
    }
    for _ in 1..4 {
        raw.control(&Control::Renewed, None);
    }
    assert_eq!(raw.fault(&lane, open, 5), Ok(4));
    raw.control(&Control::Renewed, None);
    raw.is_hung_up_on("an answer to nothing");
}

/// A daemon is no more believed: it may keep its joiner waiting, and say what it likes.
#[test]
fn daemons_that_do_not_let_join() {
    let join = |patience, answer: Option<&News>| {
        let (ours, theirs) = socket::pair().expect("a socket pair");
        if let Some(answer) = answer {
            socket::send(&theirs, encode(answer, &mut Vec::new()), &[]).expect("sent");
        }
        let joined = greet(&Host::new(), Path::new("/test"), ours, patience);
        joined.map(|nodes| nodes.len()).expect_err("there is no daemon")
    };
    let error = join(Duration::from_millis(50), None);
    let silent = "cannot join /test: who serves there has not said hello for 0.05 s; see whether";
    assert!(error.starts_with(silent), "{error}");
    let why = "\u{1b}[31mno\u{9b}\n\u{7f}\r".to_owned();
    let error = join(DEADLINE, Some(&News::Refused { why }));
    assert_eq!(error, "cannot join /test: \\u{1b}[31mno\\u{9b}\\n\\u{7f}\\r");
}
