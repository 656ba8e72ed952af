//! Frames by `read(2)`: the first wait for one begins the stream, whichever call it is. The same in
//! both modes.

use super::*;

#[test]
fn who_waits_before_the_first_read_waits_for_a_frame() {
    let said = python(
        "fps=60",
        "
def by_select(fd): select.select([fd], [], [])
def by_select_beside(fd): select.select([fd, quiet], [], [fd])
def by_poll(fd):
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll()
def by_epoll(fd):
    with select.epoll() as epoll:
        epoll.register(fd, select.EPOLLIN)
        epoll.poll()
quiet = os.pipe()[0]
for wait in [by_select, by_select_beside, by_poll, by_epoll]:
    for _ in range(15):
        fd = os.open('/dev/video0', os.O_RDWR | os.O_NONBLOCK)
        wait(fd)
        assert len(os.read(fd, 1 << 20)) == 160 * 120 * 2, wait
        os.close(fd)
print('read')
",
    );
    assert_eq!(said, "read\n");
}
