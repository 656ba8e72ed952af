"""client.py DEMO MEM: Python's own mmap over the `demo` and `mem` devices.

Prints one line a check, as the C clients do; exits 1 on a failure.
"""

import errno
import mmap
import os
import stat
import struct
import sys

failures = 0


def check(name, expected, got):
    global failures
    if expected == got:
        print(f"ok {name}")
    else:
        failures += 1
        print(f"FAIL {name}: expected {expected} got {got}")


def error_of(call):
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "0"


def words(area):
    return struct.unpack(f"<{len(area) // 4}I", area[:])


def pattern(tag, length):
    return tuple(
        (0xBEEF << 16) + i - 1 if i % 2 else (tag << 16) + i for i in range(length // 4)
    )


def demo(path):
    length = 16 * mmap.PAGESIZE
    fd = os.open(path, os.O_RDWR)
    check("demo_is_a_character_device", True, stat.S_ISCHR(os.fstat(fd).st_mode))
    # Python asks fstat for the size: a device has none, so any length is let through.
    with mmap.mmap(fd, length) as area:
        check("scattered", pattern(0xAFFE, length), words(area))
    with mmap.mmap(fd, length, offset=length) as area:
        check("contiguous", pattern(0xDEAD, length), words(area))
        with mmap.mmap(fd, mmap.PAGESIZE, offset=length) as other:
            area[8:12] = b"abcd"
            check("maps_share", b"abcd", other[8:12])
            other[8:12] = struct.pack("<I", (0xDEAD << 16) + 2)
            check("restored", pattern(0xDEAD, length), words(area))
    with mmap.mmap(fd, length, flags=mmap.MAP_PRIVATE) as area:
        area[0:4] = b"mine"
        with mmap.mmap(fd, mmap.PAGESIZE) as other:
            check("private", struct.pack("<I", 0xAFFE << 16), other[0:4])
    with mmap.mmap(fd, length, access=mmap.ACCESS_READ) as area:
        check("access_read", 0xAFFE << 16, words(area)[0])
    check("other_offset", "EIO", error_of(lambda: mmap.mmap(fd, 1, offset=mmap.PAGESIZE)))
    check("too_long", "EIO", error_of(lambda: mmap.mmap(fd, length + 1)))
    os.close(fd)
    reader = os.open(path, os.O_RDONLY)
    check("read_only", "EACCES", error_of(lambda: mmap.mmap(reader, length)))
    os.close(reader)


def mem(path):
    with open(path, "r+b", buffering=0) as file:
        with mmap.mmap(file.fileno(), 2 * mmap.PAGESIZE) as area:
            area[0:5] = b"hello"
            check("read_sees_the_store", b"hello", file.read(5))
            file.seek(0)
            file.write(b"HELLO")
            check("the_map_sees_the_write", b"HELLO", area[0:5])
            child = os.fork()
            if child == 0:
                area[0:5] = b"child"
                os._exit(0)
            check("child", 0, os.waitpid(child, 0)[1])
            check("the_childs_store_is_seen", b"child", area[0:5])
            area[0:5] = bytes(5)


demo(sys.argv[1])
mem(sys.argv[2])
if not failures:
    print("ok all")
sys.exit(1 if failures else 0)
