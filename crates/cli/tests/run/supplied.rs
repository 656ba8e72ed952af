//! Pages that a driver supplies at first access, beside a remapped one in the same map: who
//! sees what of whom, and when.

use std::process::Command;

use crate::harness::{Daemon, Mode, Run, example, in_each_mode};

in_each_mode!(@ namespace "namespace" [
    a_page_of_the_driver_is_one_for_all
    a_filled_page_is_the_homes_until_it_comes_back
    one_map_has_pages_of_each_sort
    two_joiners_have_one_page_of_the_driver
    a_page_of_the_driver_among_filled_ones
    fsync_asks_the_driver
]);
in_each_mode!(@ trapped "trapped" [
    a_page_of_the_driver_is_one_for_all
    one_map_has_pages_of_each_sort
    two_joiners_have_one_page_of_the_driver
    a_page_of_the_driver_among_filled_ones
    fsync_asks_the_driver
]);

/// The script says "ok": in a run of the server's own, and in one that joins it.
fn holds(mode: Mode, script: &str, arguments: &[&str]) {
    let daemon = daemon();
    for run in [Run::server("supplied", mode), Run::joining(mode, &daemon)] {
        let finished = run.python(script, arguments).finish().well();
        assert_eq!(finished.stdout, "ok\n", "{finished:?}");
    }
    daemon.wait_for_calls("release", 1);
    daemon.stop().well();
}

/// The server, for joiners.
fn daemon() -> Daemon {
    Daemon::start_by(Command::new(example("supplied")), "--serve")
}

/// What both begin with: two maps of a device, which overlap.
const MAPS: &str = "
def begin(path):
    global fd, area, part, numbers
    fd = os.open(path, os.O_RDWR)
    area, part = mmap.mmap(fd, 8 * PAGE), mmap.mmap(fd, 4 * PAGE, offset=4 * PAGE)
    numbers = range(8)
    assert [area[n * PAGE] for n in numbers] == list(numbers)
    assert [part[n * PAGE] for n in range(4)] == [4, 5, 6, 7]
def driver_writes(word):
    for n in numbers: assert os.pwrite(fd, word + b'%d' % n, n * PAGE + 8) == 6
def driver_sees(word):
    return [n for n in numbers if os.pread(fd, 6, n * PAGE + 16) == word + b'%d' % n]
def program_sees(word):
    return [n for n in numbers if area[n * PAGE + 8:n * PAGE + 14] == word + b'%d' % n]
def program_stores(word):
    for n in numbers: area[n * PAGE + 16:n * PAGE + 22] = word + b'%d' % n
";

/// After a `Page` answer the driver's later writes are seen by the program, and the program's
/// by the driver: at once, in each map, and in a child.
fn a_page_of_the_driver_is_one_for_all(mode: Mode) {
    let script = format!(
        "{MAPS}
begin('/dev/shared')
for word in b'first', b'later':
    driver_writes(word)
    assert program_sees(word) == list(numbers), program_sees(word)
    assert part[PAGE + 8:PAGE + 14] == word + b'5'
    program_stores(word)
    assert driver_sees(word) == list(numbers), driver_sees(word)
    assert part[PAGE + 16:PAGE + 22] == word + b'5'
if os.fork() == 0:
    driver_writes(b'other')
    program_stores(b'child')
    os._exit(program_sees(b'other') != list(numbers))
assert os.wait()[1] == 0
assert program_sees(b'other') == driver_sees(b'child') == list(numbers)
say('ok')
"
    );
    holds(mode, &script, &[]);
}

/// A `Filled` page is one for all maps, and the driver has what was stored in it after `msync`
/// at the latest. What a driver writes to its own memory is seen in the remapped page at once.
fn a_filled_page_is_the_homes_until_it_comes_back(mode: Mode) {
    let script = format!(
        "{MAPS}
begin('/dev/filled')
driver_writes(b'later')
assert 0 in program_sees(b'later')
for word in b'first', b'again':
    program_stores(word)
    assert part[PAGE + 16:PAGE + 22] == word + b'5'
    area.flush()
    assert driver_sees(word) == list(numbers), driver_sees(word)
# Stores of a program that is killed are not lost.
if os.fork() == 0:
    program_stores(b'child')
    os.kill(os.getpid(), signal.SIGKILL)
assert os.wait()[1] == signal.SIGKILL
area.flush()
assert driver_sees(b'child') == list(numbers), driver_sees(b'child')
say('ok')
"
    );
    holds(mode, &script, &[]);
}

/// Extents of filled pages and of the driver's own in one map, the filled ones first.
fn fsync_asks_the_driver(mode: Mode) {
    let script = "
fd = os.open('/dev/filled', os.O_RDWR)
os.fsync(fd)
os.fdatasync(fd)
say('ok')
";
    holds(mode, script, &[]);
}

fn one_map_has_pages_of_each_sort(mode: Mode) {
    let script = format!(
        "{MAPS}
begin('/dev/mixed')
own = {{0, 4, 5, 6, 7}}
for word in b'first', b'later':
    driver_writes(word)
    assert own <= set(program_sees(word)), program_sees(word)
    program_stores(word)
    assert own <= set(driver_sees(word)), driver_sees(word)
    assert area[PAGE + 16:PAGE + 22] == word + b'1'
if sys.argv[1] == 'namespace':
    area.flush()
    assert driver_sees(b'later') == list(numbers), driver_sees(b'later')
say('ok')
"
    );
    holds(mode, &script, &[mode.0]);
}

/// Pages of the driver's are shared by the programs of two joiners, and stay what they are when
/// one of the two has ended.
fn two_joiners_have_one_page_of_the_driver(mode: Mode) {
    let script = format!(
        "{MAPS}
begin('/dev/shared')
say('mapped')
while word := hear():
    if word == 'store': program_stores(b'hello')
    elif word == 'write': driver_writes(b'words')
    say(*[n for n in numbers if area[n * PAGE + 16:n * PAGE + 22] == b'hello%d' % n])
    say(*program_sees(b'words'))
"
    );
    let daemon = daemon();
    let [mut one, mut two] = [(), ()].map(|()| {
        let mut joiner = Run::joining(mode, &daemon).python(&script, &[]);
        assert_eq!(joiner.hear(), "mapped");
        joiner
    });
    one.say("store");
    assert_eq!([one.hear(), one.hear()], ["0 1 2 3 4 5 6 7", ""]);
    two.say("write");
    assert_eq!([two.hear(), two.hear()], ["0 1 2 3 4 5 6 7", "0 1 2 3 4 5 6 7"]);
    two.finish().well();
    one.say("look");
    assert_eq!([one.hear(), one.hear()], ["0 1 2 3 4 5 6 7", "0 1 2 3 4 5 6 7"]);
    one.finish().well();
    daemon.wait_for_calls("release", 2);
    daemon.stop().well();
}

/// In one extent with filled pages, of which the first is one: SIGBUS where pages come at first
/// access, and the driver is named; where they are supplied beforehand all are there.
fn a_page_of_the_driver_among_filled_ones(mode: Mode) {
    let script = "
area = mmap.mmap(os.open('/dev/late', os.O_RDWR), 8 * PAGE)
assert [area[n * PAGE] for n in range(4)] == [0, 1, 2, 3]
for n in 4, 7:
    if os.fork() == 0:
        os._exit(area[n * PAGE])
    say(os.waitstatus_to_exitcode(os.wait()[1]))
";
    let daemon = daemon();
    for run in [Run::server("supplied", mode), Run::joining(mode, &daemon)] {
        let finished = run.python(script, &[]).finish().well();
        if mode.is_trapped() {
            assert_eq!(finished.stdout, "4\n7\n");
        } else {
            assert_eq!(finished.stdout, format!("{0}\n{0}\n", -libc::SIGBUS));
            finished.complains(&["/dev/late", "whose first page it filled"]);
        }
    }
    daemon.stop().well();
}
