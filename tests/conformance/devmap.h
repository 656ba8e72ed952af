/* What the `events` device's ioctls take, and the other devices' constants: the C
 * side of crates/devices. */
#ifndef DEVMAP_H
#define DEVMAP_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* demo: two areas, each of this many pages. */
#define DEMO_PAGES 16
/* 32-bit words, for even i: (tag << 16) + i, (DEMO_ODD << 16) + i. */
#define DEMO_SCATTERED 0xaffeu
#define DEMO_CONTIGUOUS 0xdeadu
#define DEMO_ODD 0xbeefu

#define HELLO_TEXT "Hello from a device in safe Rust.\n"

/* events */
#define EVENTS_CAPACITY 1024
#define EVENTS_AUTOMATIC 0xffffffffu
#define EVENTS_MAX_COPY 4096

struct events_buffer {
	__u8 bytes[88];
};

struct events_copy {
	__u64 from;
	__u64 to;
	__u32 len;
	__u32 sum;
};

struct events_stats {
	__u64 waits;
	__u64 interrupted;
	__u64 waiting;
};

#define EVENTS_SET_MASK _IOW('E', 1, __u32)
#define EVENTS_GET_MASK _IOR('E', 2, __u32)
#define EVENTS_WAIT_MASK _IOWR('E', 3, __u32)
#define EVENTS_SLEEP _IO('E', 4)
#define EVENTS_INVERT _IOWR('E', 5, struct events_buffer)
#define EVENTS_COPY _IOWR('E', 6, struct events_copy)
#define EVENTS_COUNT _IO('E', 7)
#define EVENTS_STATS _IOR('E', 8, struct events_stats)
#define EVENTS_RESET _IO('E', 9)

#endif
