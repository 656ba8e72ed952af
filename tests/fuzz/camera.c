/* A client of a V4L2 camera that means ill: as many calls as it is told, each with an
 * argument that is drawn from a seed, part of it such as a sound client would pass, so
 * that it gets past the first checks. Pointers lead to memory, past its end, and nowhere.
 * Nothing is expected of an answer but that it comes; at the end it says how many calls
 * succeeded, and dies as it stands, streaming or not.
 *
 * Usage: camera PATH SEED CALLS
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define FILES 4
#define MAPS 8
#define PAGE 4096UL

static uint64_t state;
static const char *path;
static int files[FILES];
static struct {
	unsigned char *address;
	size_t length;
} maps[MAPS];
/* Four pages, behind which nothing is. */
static unsigned char *memory;

static uint32_t draw(uint32_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (uint32_t)(state >> 16) % below;
}

static uint32_t number(void)
{
	static const uint32_t usual[] = { 0, 1, 2, 3, 4, 5, 8, 9, 16, 31, 32, 33, 255, 640, 480,
		4096, 614400, 0x7fffffff, 0x80000000, 0xffffffff, V4L2_CID_BRIGHTNESS,
		V4L2_CID_BRIGHTNESS | V4L2_CTRL_FLAG_NEXT_CTRL, V4L2_CID_USER_CLASS,
		V4L2_CID_EXPOSURE_AUTO, V4L2_CTRL_CLASS_CAMERA, V4L2_PIX_FMT_YUYV,
		V4L2_PIX_FMT_MJPEG, V4L2_PIX_FMT_GREY, V4L2_EVENT_CTRL, V4L2_CTRL_WHICH_DEF_VAL };

	return draw(4) ? usual[draw(sizeof(usual) / sizeof(usual[0]))]
		       : (uint32_t)(draw(0x10000) << 16 | draw(0x10000));
}

static uint64_t pointer(void)
{
	/* Drawn whatever has succeeded so far: the same seed makes the same calls. */
	uint32_t at = draw(MAPS);

	switch (draw(6)) {
	case 0: return 0;
	case 1: return (uintptr_t)memory + 4 * PAGE;
	case 2: return (uintptr_t)memory + 4 * PAGE - draw(200);
	case 3: return ~0ULL - draw(PAGE);
	case 4: return maps[at].address ? (uintptr_t)maps[at].address : 1;
	default: return (uintptr_t)memory + draw(3 * PAGE);
	}
}

/* An argument for a command, as far as there is one that makes sense. */
static void fill(unsigned char *argument, size_t size, unsigned int command)
{
	struct v4l2_buffer *buffer = (void *)argument;
	struct v4l2_requestbuffers *request = (void *)argument;
	struct v4l2_ext_controls *list = (void *)argument;

	for (size_t at = 0; at + 4 <= size; at += 4)
		memcpy(argument + at, &(uint32_t){ draw(3) ? 0 : number() }, 4);
	switch (command) {
	case VIDIOC_QUERYBUF: case VIDIOC_QBUF: case VIDIOC_DQBUF: case VIDIOC_PREPARE_BUF:
		buffer->index = draw(8) ? draw(5) : number();
		buffer->type = draw(16) ? V4L2_BUF_TYPE_VIDEO_CAPTURE : number();
		buffer->memory = draw(8) ? 1 + draw(2) : number();
		buffer->flags = draw(8) ? 0 : number();
		if (draw(2)) {
			buffer->m.userptr = pointer();
			buffer->length = draw(2) ? 614400 : number();
		}
		break;
	case VIDIOC_REQBUFS:
		request->count = draw(8) ? draw(6) : number();
		request->type = draw(16) ? V4L2_BUF_TYPE_VIDEO_CAPTURE : number();
		request->memory = draw(8) ? 1 + draw(2) : number();
		break;
	case VIDIOC_CREATE_BUFS:
		((struct v4l2_create_buffers *)argument)->count = draw(8) ? draw(4) : number();
		((struct v4l2_create_buffers *)argument)->memory = 1 + draw(2);
		((struct v4l2_create_buffers *)argument)->format.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
		if (draw(4))
			((struct v4l2_create_buffers *)argument)->format.fmt.pix.sizeimage = 614400;
		break;
	case VIDIOC_G_EXT_CTRLS: case VIDIOC_S_EXT_CTRLS: case VIDIOC_TRY_EXT_CTRLS:
		list->count = draw(8) ? draw(5) : number();
		list->controls = (void *)(uintptr_t)pointer();
		break;
	case VIDIOC_STREAMON: case VIDIOC_STREAMOFF: case VIDIOC_G_FMT: case VIDIOC_S_FMT:
	case VIDIOC_TRY_FMT: case VIDIOC_G_PARM: case VIDIOC_S_PARM:
		if (draw(16))
			memcpy(argument, &(uint32_t){ V4L2_BUF_TYPE_VIDEO_CAPTURE }, 4);
		break;
	case VIDIOC_S_PRIORITY:
		/* Else the one that has the highest keeps the others from all. */
		memcpy(argument, &(uint32_t){ draw(8) ? V4L2_PRIORITY_INTERACTIVE : number() }, 4);
		break;
	}
}

static int command(int fd)
{
	/* Structures by the numbers of the commands; what is not here is drawn. */
	static const unsigned int known[] = {
		VIDIOC_QUERYCAP, VIDIOC_ENUM_FMT, VIDIOC_G_FMT, VIDIOC_S_FMT, VIDIOC_REQBUFS,
		VIDIOC_QUERYBUF, VIDIOC_QBUF, VIDIOC_QBUF, VIDIOC_QBUF, VIDIOC_DQBUF, VIDIOC_DQBUF,
		VIDIOC_STREAMON, VIDIOC_STREAMOFF, VIDIOC_G_PARM, VIDIOC_S_PARM, VIDIOC_ENUMINPUT,
		VIDIOC_G_CTRL, VIDIOC_S_CTRL, VIDIOC_QUERYCTRL, VIDIOC_QUERYMENU, VIDIOC_S_INPUT,
		VIDIOC_CROPCAP, VIDIOC_TRY_FMT, VIDIOC_S_PRIORITY, VIDIOC_G_EXT_CTRLS,
		VIDIOC_S_EXT_CTRLS, VIDIOC_TRY_EXT_CTRLS, VIDIOC_ENUM_FRAMESIZES,
		VIDIOC_ENUM_FRAMEINTERVALS, VIDIOC_DQEVENT, VIDIOC_SUBSCRIBE_EVENT,
		VIDIOC_UNSUBSCRIBE_EVENT, VIDIOC_CREATE_BUFS, VIDIOC_PREPARE_BUF,
		VIDIOC_G_SELECTION, VIDIOC_S_SELECTION, VIDIOC_QUERY_EXT_CTRL, VIDIOC_EXPBUF,
		VIDIOC_G_EDID, VIDIOC_S_EDID };
	unsigned char argument[16384] = { 0 };
	unsigned int which = known[draw(sizeof(known) / sizeof(known[0]))];

	if (!draw(8))
		which = _IOC(draw(4), draw(16) ? 'V' : draw(256), draw(256), draw(0x4000));
	if (!draw(8))
		return ioctl(fd, which, (void *)(uintptr_t)pointer());
	fill(argument, _IOC_SIZE(which), which);
	return ioctl(fd, which, argument);
}

static int map(int fd)
{
	unsigned int at = draw(MAPS);
	struct v4l2_buffer buffer = { .index = draw(4), .type = V4L2_BUF_TYPE_VIDEO_CAPTURE };
	size_t length = draw(4) * PAGE + draw(2);
	uint64_t offset = draw(512) * PAGE;
	void *address;

	if (maps[at].address) {
		munmap(maps[at].address, maps[at].length);
		maps[at].address = NULL;
	}
	if (draw(4) && ioctl(fd, VIDIOC_QUERYBUF, &buffer) == 0) {
		length = buffer.length;
		offset = buffer.m.offset;
	}
	address = mmap(NULL, length, draw(4) ? PROT_READ | PROT_WRITE : (int)draw(8),
		       draw(8) ? MAP_SHARED : MAP_PRIVATE, fd, offset);
	if (address == MAP_FAILED)
		return -1;
	maps[at].address = address;
	maps[at].length = length;
	return 0;
}

int main(int argc, char **argv)
{
	unsigned long succeeded = 0, calls;

	if (argc != 4)
		return 2;
	path = argv[1];
	state = strtoull(argv[2], NULL, 0) * 0x9e3779b97f4a7c15ULL | 1;
	calls = strtoul(argv[3], NULL, 0);
	memory = mmap(NULL, 5 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(memory + 4 * PAGE, PAGE);
	for (size_t i = 0; i < FILES; i++)
		files[i] = -1;
	for (unsigned long i = 0; i < calls; i++) {
		int at = draw(FILES), result = -1;

		if (files[at] < 0 || !draw(64)) {
			if (files[at] >= 0)
				close(files[at]);
			files[at] = open(path, (draw(4) ? O_RDWR : (int)draw(3)) | O_NONBLOCK);
			continue;
		}
		switch (draw(32)) {
		case 0:
			result = map(files[at]);
			break;
		case 1:
			result = read(files[at], memory + draw(4 * PAGE + 64), draw(2 * PAGE));
			break;
		case 2:
			result = poll(&(struct pollfd){ .fd = files[at], .events = draw(0x400) }, 1,
				      0);
			break;
		case 3:
			/* What another file of it has asked for goes with its owner. */
			if (files[(at + 1) % FILES] >= 0)
				close(files[(at + 1) % FILES]);
			files[(at + 1) % FILES] = dup(files[at]);
			break;
		default:
			result = command(files[at]);
		}
		succeeded += result >= 0;
	}
	printf("%lu of %lu\n", succeeded, calls);
	fflush(stdout);
	raise(SIGKILL);
}
