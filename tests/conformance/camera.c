/* A V4L2 client that asks a capture device everything, with good and with bad arguments,
 * in a fixed order, and says what it is answered: one `note NAME VALUE` a line. It knows
 * nothing of the camera: what it prints are errnos, flags and what became of fields, no
 * sizes and names. So `camera` under `devmap run` and the kernel's vivid can be held
 * against each other.
 *
 * Usage: camera /dev/videoN
 */
#include "check.h"

#include <linux/videodev2.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#define CAPTURE V4L2_BUF_TYPE_VIDEO_CAPTURE

static const char *path;
/* The camera, not blocking, by the open file that does most. */
static int camera;
/* Another open file of it. */
static int other;
/* An address whose page is not there, and one at which a page ends. */
static void *unmapped, *page_end;

static const char *call(int fd, unsigned long command, void *argument)
{
	return error_name(ioctl(fd, command, argument) < 0 ? errno : 0);
}

/* Asks, and then says what came of it: the other arguments are looked at afterwards. */
#define ASK(name, asked, format, ...)                          \
	do {                                                   \
		const char *said_ = (asked);                   \
		note(name, "%s " format, said_, __VA_ARGS__);  \
	} while (0)

/* Whether this many bytes are all zero. */
static const char *zeros(const void *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if (((const unsigned char *)bytes)[i])
			return "kept";
	return "cleared";
}

#define ZEROS(field) zeros(&(field), sizeof(field))

static int reopen(int flags)
{
	int fd = open(path, O_RDWR | flags);

	if (fd < 0)
		die("open");
	return fd;
}

static short events_of(int fd, short wanted, int timeout)
{
	struct pollfd poller = { .fd = fd, .events = wanted };

	return poll(&poller, 1, timeout) < 0 ? -1 : poller.revents;
}

/* To ask whether a file can be read starts read(2)'s stream, where there are no buffers. */
static void note_poll(const char *name, int fd, short wanted)
{
	short events = events_of(fd, wanted, 0);

	note(name, "%s%s%s%s%s%s", events ? "" : "nothing", events & POLLIN ? "IN," : "",
	     events & POLLPRI ? "PRI," : "", events & POLLOUT ? "OUT," : "",
	     events & POLLERR ? "ERR," : "", events & POLLHUP ? "HUP," : "");
}

/* Each command there is: with an argument of zeros, one of ones, none, and an address at
 * which nothing is. */
static void sweep(void)
{
#define EACH(name) { #name, VIDIOC_##name }
	static const struct {
		const char *name;
		unsigned int command;
	} commands[] = {
		EACH(QUERYCAP), EACH(ENUM_FMT), EACH(G_FMT), EACH(S_FMT), EACH(REQBUFS),
		EACH(QUERYBUF), EACH(G_FBUF), EACH(S_FBUF), EACH(OVERLAY), EACH(QBUF),
		EACH(EXPBUF), EACH(DQBUF), EACH(STREAMON), EACH(STREAMOFF), EACH(G_PARM),
		EACH(S_PARM), EACH(G_STD), EACH(S_STD), EACH(ENUMSTD), EACH(ENUMINPUT),
		EACH(G_CTRL), EACH(S_CTRL), EACH(G_TUNER), EACH(S_TUNER), EACH(G_AUDIO),
		EACH(S_AUDIO), EACH(QUERYCTRL), EACH(QUERYMENU), EACH(G_INPUT), EACH(S_INPUT),
		EACH(G_EDID), EACH(S_EDID), EACH(G_OUTPUT), EACH(S_OUTPUT), EACH(ENUMOUTPUT),
		EACH(G_AUDOUT), EACH(S_AUDOUT), EACH(G_MODULATOR), EACH(S_MODULATOR),
		EACH(G_FREQUENCY), EACH(S_FREQUENCY), EACH(CROPCAP), EACH(G_CROP), EACH(S_CROP),
		EACH(G_JPEGCOMP), EACH(S_JPEGCOMP), EACH(QUERYSTD), EACH(TRY_FMT),
		EACH(ENUMAUDIO), EACH(ENUMAUDOUT), EACH(G_PRIORITY), EACH(S_PRIORITY),
		EACH(G_SLICED_VBI_CAP), EACH(LOG_STATUS), EACH(G_EXT_CTRLS), EACH(S_EXT_CTRLS),
		EACH(TRY_EXT_CTRLS), EACH(ENUM_FRAMESIZES), EACH(ENUM_FRAMEINTERVALS),
		EACH(G_ENC_INDEX), EACH(ENCODER_CMD), EACH(TRY_ENCODER_CMD),
		EACH(S_HW_FREQ_SEEK), EACH(S_DV_TIMINGS), EACH(G_DV_TIMINGS), EACH(DQEVENT),
		EACH(SUBSCRIBE_EVENT), EACH(UNSUBSCRIBE_EVENT), EACH(CREATE_BUFS),
		EACH(PREPARE_BUF), EACH(G_SELECTION), EACH(S_SELECTION), EACH(DECODER_CMD),
		EACH(TRY_DECODER_CMD), EACH(ENUM_DV_TIMINGS), EACH(QUERY_DV_TIMINGS),
		EACH(DV_TIMINGS_CAP), EACH(ENUM_FREQ_BANDS), EACH(QUERY_EXT_CTRL),
		{ "of_no_number", _IOWR('V', 150, int) },
		{ "of_a_driver", _IOWR('V', BASE_VIDIOC_PRIVATE, int) },
		{ "of_another_kind", _IOWR('X', 0, int) },
		{ "QUERYCAP_of_another_size", _IOR('V', 0, int) },
		{ "QUERYCAP_of_another_direction", _IOW('V', 0, struct v4l2_capability) },
	};
	unsigned char argument[4096];

	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		const char *with_zeros, *with_ones, *without, *badly;

		memset(argument, 0, sizeof(argument));
		with_zeros = call(camera, commands[i].command, argument);
		memset(argument, 0xff, sizeof(argument));
		with_ones = call(camera, commands[i].command, argument);
		without = call(camera, commands[i].command, NULL);
		badly = call(camera, commands[i].command, unmapped);
		note(commands[i].name, "%s %s %s %s", with_zeros, with_ones, without, badly);
	}
}

static void capability(void)
{
	struct v4l2_capability about;

	memset(&about, 0xff, sizeof(about));
	note("querycap", "%s", call(camera, VIDIOC_QUERYCAP, &about));
	note("querycap_reserved", "%s", ZEROS(about.reserved));
	note("querycap_texts_end", "%d %d %d", !about.driver[15], !about.card[31],
	     !about.bus_info[31]);
	note("querycap_bus", "%.9s", (char *)about.bus_info);
	note("querycap_device_caps", "%08x", about.device_caps);
	note("querycap_caps_beside", "%08x", about.capabilities & ~about.device_caps);
	note("querycap_at_a_page_end", "%s", call(camera, VIDIOC_QUERYCAP, page_end));
}

static void inputs(void)
{
	static const unsigned int targets[] = { V4L2_SEL_TGT_CROP, V4L2_SEL_TGT_CROP_DEFAULT,
		V4L2_SEL_TGT_CROP_BOUNDS, V4L2_SEL_TGT_NATIVE_SIZE, V4L2_SEL_TGT_COMPOSE, 0xffff };
	static const unsigned long commands[] = { VIDIOC_G_SELECTION, VIDIOC_S_SELECTION };
	struct v4l2_input input;
	struct v4l2_selection selection;
	struct v4l2_cropcap cropcap;
	int number = -1;

	memset(&input, 0xff, sizeof(input));
	input.index = 0;
	note("enuminput", "%s", call(camera, VIDIOC_ENUMINPUT, &input));
	note("enuminput_rest", "type %u audioset %u tuner %u std %llu status %u caps %u %s",
	     input.type, input.audioset, input.tuner, (unsigned long long)input.std, input.status,
	     input.capabilities, ZEROS(input.reserved));
	input.index = 1;
	note("enuminput_past_the_end", "%s", call(camera, VIDIOC_ENUMINPUT, &input));
	ASK("g_input", call(camera, VIDIOC_G_INPUT, &number), "%d", number);
	number = 1;
	note("s_input_past_the_end", "%s", call(camera, VIDIOC_S_INPUT, &number));
	number = 0;
	note("s_input", "%s", call(camera, VIDIOC_S_INPUT, &number));
	for (size_t i = 0; i < 2; i++) {
		char said[128] = "";

		for (size_t j = 0; j < sizeof(targets) / sizeof(targets[0]); j++) {
			selection = (struct v4l2_selection){ .type = CAPTURE, .target = targets[j] };
			strcat(strcat(said, " "), call(camera, commands[i], &selection));
		}
		note(i ? "s_selection" : "g_selection", "%s", said + 1);
	}
	selection = (struct v4l2_selection){ .type = V4L2_BUF_TYPE_VIDEO_OUTPUT };
	note("g_selection_of_output", "%s", call(camera, VIDIOC_G_SELECTION, &selection));
	cropcap = (struct v4l2_cropcap){ .type = CAPTURE };
	note("cropcap", "%s", call(camera, VIDIOC_CROPCAP, &cropcap));
	cropcap.type = V4L2_BUF_TYPE_VIDEO_OUTPUT;
	note("cropcap_of_output", "%s", call(camera, VIDIOC_CROPCAP, &cropcap));
}

static void priorities(void)
{
	int wanted[] = { V4L2_PRIORITY_INTERACTIVE, 0, 4, -1, V4L2_PRIORITY_RECORD };
	int priority = -1, third = reopen(O_NONBLOCK);
	struct v4l2_format format = { .type = CAPTURE };
	struct v4l2_control control = { .id = V4L2_CID_BRIGHTNESS };

	ASK("g_priority", call(camera, VIDIOC_G_PRIORITY, &priority), "%d", priority);
	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		char name[40];

		snprintf(name, sizeof(name), "s_priority_%d", wanted[i]);
		note(name, "%s", call(other, VIDIOC_S_PRIORITY, &wanted[i]));
	}
	ASK("g_priority_of_the_highest", call(camera, VIDIOC_G_PRIORITY, &priority), "%d",
	    priority);
	ioctl(camera, VIDIOC_G_FMT, &format);
	ioctl(camera, VIDIOC_G_CTRL, &control);
	note("lower_s_fmt", "%s", call(camera, VIDIOC_S_FMT, &format));
	note("lower_try_fmt", "%s", call(camera, VIDIOC_TRY_FMT, &format));
	note("lower_s_ctrl", "%s", call(camera, VIDIOC_S_CTRL, &control));
	control.id = 1;
	note("lower_s_ctrl_of_nothing", "%s", call(camera, VIDIOC_S_CTRL, &control));
	priority = V4L2_PRIORITY_INTERACTIVE;
	note("lower_s_priority", "%s", call(camera, VIDIOC_S_PRIORITY, &priority));
	note("highest_s_fmt", "%s", call(other, VIDIOC_S_FMT, &format));
	note("back_to_interactive", "%s", call(other, VIDIOC_S_PRIORITY, &priority));
	note("then_s_fmt", "%s", call(camera, VIDIOC_S_FMT, &format));
	priority = V4L2_PRIORITY_BACKGROUND;
	note("s_priority_down", "%s", call(third, VIDIOC_S_PRIORITY, &priority));
	priority = V4L2_PRIORITY_INTERACTIVE;
	note("s_priority_up_again", "%s", call(third, VIDIOC_S_PRIORITY, &priority));
	close(third);
}

static int same(const struct v4l2_format *one, const struct v4l2_format *two)
{
	return !memcmp(&one->fmt.pix, &two->fmt.pix, sizeof(one->fmt.pix));
}

static void formats(void)
{
	struct v4l2_fmtdesc about;
	struct v4l2_format format, before, wanted;
	struct v4l2_frmsizeenum size;
	struct v4l2_frmivalenum interval;
	const char *end = "0";
	char name[40];

	memset(&about, 0xff, sizeof(about));
	about.index = 0;
	about.type = CAPTURE;
	about.mbus_code = 0;
	note("enum_fmt", "%s", call(camera, VIDIOC_ENUM_FMT, &about));
	note("enum_fmt_reserved", "%s %s", ZEROS(about.mbus_code), ZEROS(about.reserved));
	for (about.index = 0; end[0] == '0' && about.index < 1000; about.index++) {
		about.mbus_code = 0;
		end = call(camera, VIDIOC_ENUM_FMT, &about);
	}
	note("enum_fmt_ends", "%s", end);
	for (unsigned int type = 0; type <= V4L2_BUF_TYPE_META_OUTPUT; type++) {
		about = (struct v4l2_fmtdesc){ .type = type };
		format = (struct v4l2_format){ .type = type };
		snprintf(name, sizeof(name), "fmt_of_type_%u", type);
		end = call(camera, VIDIOC_ENUM_FMT, &about);
		note(name, "%s %s", end, call(camera, VIDIOC_G_FMT, &format));
	}
	memset(&before, 0xff, sizeof(before));
	before.type = CAPTURE;
	note("g_fmt", "%s", call(camera, VIDIOC_G_FMT, &before));
	note("g_fmt_rest", "field %u priv %x flags %u rest %s", before.fmt.pix.field,
	     before.fmt.pix.priv, before.fmt.pix.flags,
	     zeros(before.fmt.raw_data + sizeof(before.fmt.pix),
		   sizeof(before.fmt) - sizeof(before.fmt.pix)));
	note("g_fmt_size", "%d", before.fmt.pix.sizeimage ==
	     before.fmt.pix.bytesperline * before.fmt.pix.height);

	/* What is impossible becomes something possible. */
	wanted = before;
	wanted.fmt.pix.width = wanted.fmt.pix.height = 1;
	note("try_fmt_small", "%s", call(camera, VIDIOC_TRY_FMT, &wanted));
	note("try_fmt_small_is_possible", "%d", wanted.fmt.pix.width > 1 && wanted.fmt.pix.height > 1);
	wanted.fmt.pix.width = wanted.fmt.pix.height = 0xffffffff;
	ASK("try_fmt_large", call(camera, VIDIOC_TRY_FMT, &wanted), "%d", wanted.fmt.pix.width <
	    10000);
	wanted = before;
	wanted.fmt.pix.pixelformat = v4l2_fourcc('?', '?', '?', '?');
	note("try_fmt_unknown", "%s", call(camera, VIDIOC_TRY_FMT, &wanted));
	note("try_fmt_unknown_becomes", "%.4s", (char *)&wanted.fmt.pix.pixelformat);
	for (unsigned int field = 0; field <= 11; field++) {
		wanted = before;
		wanted.fmt.pix.field = field;
		ioctl(camera, VIDIOC_TRY_FMT, &wanted);
		snprintf(name, sizeof(name), "try_fmt_field_%u", field);
		note(name, "%u", wanted.fmt.pix.field);
	}
	wanted = before;
	wanted.fmt.pix.bytesperline = wanted.fmt.pix.sizeimage = 0;
	ioctl(camera, VIDIOC_TRY_FMT, &wanted);
	note("try_fmt_lengths_of_0", "%d", same(&wanted, &before));
	wanted.fmt.pix.bytesperline = before.fmt.pix.bytesperline + 64;
	wanted.fmt.pix.sizeimage = 0xffffffff;
	ioctl(camera, VIDIOC_TRY_FMT, &wanted);
	note("try_fmt_longer_lines", "%d",
	     (int)(wanted.fmt.pix.bytesperline - before.fmt.pix.bytesperline));
	note("try_fmt_larger_picture", "%d", wanted.fmt.pix.sizeimage ==
	     wanted.fmt.pix.bytesperline * wanted.fmt.pix.height);
	wanted = before;
	wanted.fmt.pix.colorspace = wanted.fmt.pix.ycbcr_enc = 0xff;
	wanted.fmt.pix.quantization = wanted.fmt.pix.xfer_func = 0xff;
	ASK("try_fmt_colours", call(camera, VIDIOC_TRY_FMT, &wanted), "%d", same(&wanted, &before));
	wanted = before;
	wanted.fmt.pix.priv = 0;
	wanted.fmt.pix.flags = wanted.fmt.pix.ycbcr_enc = 7;
	ioctl(camera, VIDIOC_TRY_FMT, &wanted);
	note("try_fmt_without_priv", "%x %u %d", wanted.fmt.pix.priv, wanted.fmt.pix.flags,
	     wanted.fmt.pix.ycbcr_enc == before.fmt.pix.ycbcr_enc);
	format = (struct v4l2_format){ .type = CAPTURE };
	ioctl(camera, VIDIOC_G_FMT, &format);
	note("try_fmt_changes_nothing", "%d", same(&format, &before));
	ASK("s_fmt_as_it_is", call(camera, VIDIOC_S_FMT, &format), "%d", same(&format, &before));

	size = (struct v4l2_frmsizeenum){ .pixel_format = before.fmt.pix.pixelformat };
	memset(size.reserved, 0xff, sizeof(size.reserved));
	ASK("enum_framesizes", call(camera, VIDIOC_ENUM_FRAMESIZES, &size), "type %u %s",
	    size.type, ZEROS(size.reserved));
	interval = (struct v4l2_frmivalenum){
		.pixel_format = size.pixel_format, .width = size.discrete.width,
		.height = size.discrete.height };
	memset(interval.reserved, 0xff, sizeof(interval.reserved));
	ASK("enum_frameintervals", call(camera, VIDIOC_ENUM_FRAMEINTERVALS, &interval),
	    "type %u %s", interval.type, ZEROS(interval.reserved));
	interval.index = 1000;
	note("enum_frameintervals_past_the_end", "%s",
	     call(camera, VIDIOC_ENUM_FRAMEINTERVALS, &interval));
	interval.index = 0;
	interval.width++;
	note("enum_frameintervals_of_no_size", "%s",
	     call(camera, VIDIOC_ENUM_FRAMEINTERVALS, &interval));
	size.index = 1000;
	note("enum_framesizes_past_the_end", "%s", call(camera, VIDIOC_ENUM_FRAMESIZES, &size));
	size.index = 0;
	size.pixel_format = 1;
	note("enum_framesizes_of_no_format", "%s", call(camera, VIDIOC_ENUM_FRAMESIZES, &size));
}

static void rates(void)
{
	static const struct v4l2_fract intervals[] = {
		{ 0, 0 }, { 1, 0 }, { 0, 1 }, { 1, 30 }, { 1000, 1 }, { 1, 100000 },
		{ 0xffffffff, 1 }, { 1, 0xffffffff }, { 0xffffffff, 0xffffffff } };
	struct v4l2_streamparm parm, before;
	char name[40];

	memset(&before, 0xff, sizeof(before));
	before.type = CAPTURE;
	note("g_parm", "%s", call(camera, VIDIOC_G_PARM, &before));
	note("g_parm_rest", "capability %x mode %u ext %u %s %s",
	     before.parm.capture.capability, before.parm.capture.capturemode,
	     before.parm.capture.extendedmode,
	     ZEROS(before.parm.capture.reserved),
	     zeros(before.parm.raw_data + sizeof(before.parm.capture),
		   sizeof(before.parm) - sizeof(before.parm.capture)));
	note("g_parm_readbuffers", "%d", before.parm.capture.readbuffers > 0);
	for (size_t i = 0; i < sizeof(intervals) / sizeof(intervals[0]); i++) {
		memset(&parm, 0xff, sizeof(parm));
		parm.type = CAPTURE;
		parm.parm.capture.timeperframe = intervals[i];
		snprintf(name, sizeof(name), "s_parm_%x/%x", intervals[i].numerator,
			 intervals[i].denominator);
		ASK(name, call(camera, VIDIOC_S_PARM, &parm), "%d %s",
		    parm.parm.capture.timeperframe.numerator &&
		    parm.parm.capture.timeperframe.denominator,
		    ZEROS(parm.parm.capture.reserved));
	}
	parm = before;
	parm.type = V4L2_BUF_TYPE_VIDEO_OUTPUT;
	note("s_parm_of_output", "%s", call(camera, VIDIOC_S_PARM, &parm));
	note("g_parm_of_output", "%s", call(camera, VIDIOC_G_PARM, &parm));
	note("s_parm_back", "%s", call(camera, VIDIOC_S_PARM, &before));
}

#include "camera_controls.h"
#include "camera_buffers.h"

int main(int argc, char **argv)
{
	char *pages;
	struct stat about;

	if (argc != 2) {
		fprintf(stderr, "usage: camera PATH\n");
		return 2;
	}
	start();
	path = argv[1];
	pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(pages + page, page);
	unmapped = pages + page;
	page_end = pages + page - 8;
	camera = reopen(O_NONBLOCK);
	other = reopen(O_NONBLOCK);
	if (fstat(camera, &about) < 0)
		die("fstat");
	note("node", "%d %u", S_ISCHR(about.st_mode), major(about.st_rdev));
	capability();
	sweep();
	inputs();
	priorities();
	formats();
	rates();
	camera_controls();
	camera_events();
	camera_buffers();
	return finish();
}
