//! Where a device in a namespace is not as one of the kernel's, because its descriptor is an open
//! file of FUSE: what COMPAT.md says of that is true.

use crate::harness::{Mode, Run};

const DEVICES: &[&str] = &["/dev/m=mem:size=64K", "/dev/z=zero"];

#[test]
fn a_device_is_a_file_of_fuse() {
    let script = "
import resource
fd = os.open('/dev/m', os.O_RDWR | os.O_APPEND)
os.lseek(fd, 100, os.SEEK_SET)
os.write(fd, b'ABC')
say('appended', os.pread(fd, 3, 0), os.pread(fd, 3, 100))
plain = os.open('/dev/m', os.O_RDWR)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, most[1]))
say('limited', error_of(lambda: os.write(plain, b'x')))
resource.setrlimit(resource.RLIMIT_FSIZE, most)
path = os.open('/dev/m', os.O_PATH)
again = error_of(lambda: os.open(f'/proc/self/fd/{path}', os.O_RDWR))
say('again', again in ['ENXIO', 'EACCES'])
say('direct', error_of(lambda: os.open('/dev/m', os.O_RDWR | os.O_DIRECT)))
say('epoll', error_of(lambda: select.epoll().register(os.open('/dev/z', os.O_RDWR))))
pages = memoryview(mmap.mmap(-1, 300 * PAGE))
say('parts', os.readv(plain, [pages[at * PAGE : at * PAGE + 1] for at in range(300)]))
most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, most[1]))
say('map', error_of(lambda: map_raw(plain, 1)))
";
    let finished = Run::new(Mode("namespace"), DEVICES).traced().python(script, &[]).finish();
    let said = "appended b'ABC' b'\\x00\\x00\\x00'\nlimited EFBIG\nagain True\ndirect 0\nepoll 0\n\
                parts 300\nmap EMFILE\n";
    assert_eq!(finished.stdout, said, "{finished:?}");
    // Two by `pread`, and the parts in two turns.
    assert_eq!(finished.count("read"), 4, "{finished:?}");
}
