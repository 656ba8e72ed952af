/* The part of `camera` that asks about buffers, streams and their files. It gives back
 * what it takes, so that each question begins with no buffers. */

static struct v4l2_buffer buffer_of(unsigned int index, unsigned int memory)
{
	return (struct v4l2_buffer){ .index = index, .type = CAPTURE, .memory = memory };
}

static const char *request(int fd, unsigned int count, unsigned int memory)
{
	struct v4l2_requestbuffers wanted = { .count = count, .type = CAPTURE, .memory = memory };

	return call(fd, VIDIOC_REQBUFS, &wanted);
}

static const char *queue(int fd, unsigned int index)
{
	struct v4l2_buffer buffer = buffer_of(index, V4L2_MEMORY_MMAP);

	return call(fd, VIDIOC_QBUF, &buffer);
}

static const char *dequeue(int fd)
{
	struct v4l2_buffer buffer = buffer_of(0, V4L2_MEMORY_MMAP);

	return call(fd, VIDIOC_DQBUF, &buffer);
}

static const char *stream(int fd, unsigned long command)
{
	int type = CAPTURE;

	return call(fd, command, &type);
}

/* Waits for a frame, as long as only a hang would take. */
static const char *await(int fd)
{
	return events_of(fd, POLLIN, 60000) & POLLIN ? "IN" : "nothing";
}

static unsigned int flags_of(int fd, unsigned int index)
{
	struct v4l2_buffer buffer = buffer_of(index, 0);

	return ioctl(fd, VIDIOC_QUERYBUF, &buffer) < 0 ? 0xffffffff : buffer.flags;
}

static void requests(void)
{
	static const unsigned int memories[] = { 0, V4L2_MEMORY_MMAP, V4L2_MEMORY_USERPTR,
		V4L2_MEMORY_OVERLAY, V4L2_MEMORY_DMABUF, 5 };
	static const unsigned int counts[] = { 0, 1, 2, 3, 32, 33, 0xffffffff };
	struct v4l2_requestbuffers wanted;
	struct v4l2_format format = { .type = CAPTURE };
	struct v4l2_buffer buffer;
	const char *said;
	char name[40];

	for (size_t i = 0; i < sizeof(memories) / sizeof(memories[0]); i++) {
		snprintf(name, sizeof(name), "reqbufs_of_memory_%u", memories[i]);
		ASK(name, request(camera, 0, memories[i]), "%s", request(camera, 2,
		    memories[i]));
		request(camera, 0, V4L2_MEMORY_MMAP);
	}
	for (unsigned int type = 0; type <= V4L2_BUF_TYPE_META_OUTPUT; type++) {
		wanted = (struct v4l2_requestbuffers){ .count = 2, .type = type,
						       .memory = V4L2_MEMORY_MMAP };
		if (type == CAPTURE)
			continue;
		buffer = (struct v4l2_buffer){ .type = type, .memory = V4L2_MEMORY_MMAP };
		snprintf(name, sizeof(name), "reqbufs_of_type_%u", type);
		note(name, "%s", call(camera, VIDIOC_REQBUFS, &wanted));
		snprintf(name, sizeof(name), "buffers_of_type_%u", type);
		said = call(camera, VIDIOC_QUERYBUF, &buffer);
		note(name, "%s %s", said, call(camera, VIDIOC_QBUF, &buffer));
		snprintf(name, sizeof(name), "streamon_of_type_%u", type);
		note(name, "%s", call(camera, VIDIOC_STREAMON, &type));
	}
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		memset(&wanted, 0xff, sizeof(wanted));
		wanted.type = CAPTURE;
		wanted.memory = V4L2_MEMORY_MMAP;
		wanted.count = counts[i];
		snprintf(name, sizeof(name), "reqbufs_%u", counts[i]);
		ASK(name, call(camera, VIDIOC_REQBUFS, &wanted), "%u", wanted.count);
	}
	note("reqbufs_rest", "flags %x %s", wanted.flags, ZEROS(wanted.reserved));
	wanted.count = 0;
	ioctl(camera, VIDIOC_REQBUFS, &wanted);
	note("reqbufs_capabilities", "%08x", wanted.capabilities);

	note("querybuf_without", "%x", flags_of(camera, 0));
	note("qbuf_without", "%s", queue(camera, 0));
	note("dqbuf_without", "%s", dequeue(camera));
	note("streamon_without", "%s", stream(camera, VIDIOC_STREAMON));
	note("streamoff_without", "%s", stream(camera, VIDIOC_STREAMOFF));
	note_poll("poll_without", camera, POLLPRI);

	note("reqbufs", "%s", request(camera, 3, V4L2_MEMORY_MMAP));
	buffer = buffer_of(0, V4L2_MEMORY_USERPTR);
	memset(&buffer.timecode, 0xff, sizeof(buffer.timecode));
	buffer.reserved2 = buffer.request_fd = 0xffffffff;
	ASK("querybuf", call(camera, VIDIOC_QUERYBUF, &buffer),
	    "flags %x field %u used %u memory %u", buffer.flags, buffer.field,
	    buffer.bytesused, buffer.memory);
	note("querybuf_rest", "sequence %u time %ld.%06ld %s %u %u", buffer.sequence,
	     (long)buffer.timestamp.tv_sec, (long)buffer.timestamp.tv_usec, ZEROS(buffer.timecode),
	     buffer.reserved2, buffer.request_fd);
	ioctl(camera, VIDIOC_G_FMT, &format);
	note("querybuf_length", "%d", buffer.length == format.fmt.pix.sizeimage);
	note("querybuf_first_offset", "%u", buffer.m.offset);
	note("querybuf_past_the_end", "%x", flags_of(camera, 3));
	note("querybuf_far_past_the_end", "%x", flags_of(camera, 0xffffffff));
	note("querybuf_by_another", "%x", flags_of(other, 0));
	note("s_fmt_with_buffers", "%s", call(camera, VIDIOC_S_FMT, &format));
	note("s_fmt_of_another_with_buffers", "%s", call(other, VIDIOC_S_FMT, &format));
	note_poll("poll_with_buffers", camera, POLLIN | POLLRDNORM | POLLOUT);
	request(camera, 0, V4L2_MEMORY_MMAP);
}

static const char *create(int fd, unsigned int count, unsigned int memory,
			  const struct v4l2_format *format, struct v4l2_create_buffers *made)
{
	memset(made, 0xff, sizeof(*made));
	made->count = count;
	made->memory = memory;
	made->format = *format;
	return call(fd, VIDIOC_CREATE_BUFS, made);
}

static void creations(void)
{
	struct v4l2_format format = { .type = CAPTURE }, changed;
	struct v4l2_create_buffers made;

	ioctl(camera, VIDIOC_G_FMT, &format);
	ASK("create_bufs_0", create(camera, 0, V4L2_MEMORY_MMAP, &format, &made), "%u %u",
	    made.index, made.count);
	note("create_bufs_0_rest", "flags %x %s", made.flags, ZEROS(made.reserved));
	ASK("create_bufs", create(camera, 2, V4L2_MEMORY_MMAP, &format, &made), "%u %u",
	    made.index, made.count);
	ASK("create_bufs_more", create(camera, 1, V4L2_MEMORY_MMAP, &format, &made), "%u %u",
	    made.index, made.count);
	note("create_bufs_of_other_memory", "%s",
	     create(camera, 1, V4L2_MEMORY_USERPTR, &format, &made));
	note("create_bufs_of_memory_0", "%s", create(camera, 1, 0, &format, &made));
	note("create_bufs_of_dmabuf", "%s", create(camera, 1, V4L2_MEMORY_DMABUF, &format, &made));
	note("create_bufs_by_another", "%s", create(other, 1, V4L2_MEMORY_MMAP, &format, &made));
	changed = format;
	changed.type = V4L2_BUF_TYPE_VIDEO_OUTPUT;
	note("create_bufs_of_output", "%s", create(camera, 1, V4L2_MEMORY_MMAP, &changed, &made));
	changed = format;
	changed.fmt.pix.sizeimage = 0;
	note("create_bufs_of_no_length", "%s", create(camera, 1, V4L2_MEMORY_MMAP, &changed, &made));
	changed.fmt.pix.sizeimage = format.fmt.pix.sizeimage - 1;
	note("create_bufs_too_short", "%s", create(camera, 1, V4L2_MEMORY_MMAP, &changed, &made));
	changed.fmt.pix.sizeimage = format.fmt.pix.sizeimage + 4096;
	note("create_bufs_longer", "%s", create(camera, 1, V4L2_MEMORY_MMAP, &changed, &made));
	ASK("create_bufs_too_many", create(camera, 100, V4L2_MEMORY_MMAP, &format, &made), "%u",
	    made.count);
	note("create_bufs_past_the_end", "%s", create(camera, 1, V4L2_MEMORY_MMAP, &format, &made));
	request(camera, 0, V4L2_MEMORY_MMAP);
}

static void exports(void)
{
	struct v4l2_exportbuffer wanted = { .type = CAPTURE };

	note("expbuf_without", "%s", call(camera, VIDIOC_EXPBUF, &wanted));
	request(camera, 2, V4L2_MEMORY_MMAP);
	wanted.index = 5;
	note("expbuf_past_the_end", "%s", call(camera, VIDIOC_EXPBUF, &wanted));
	wanted.index = 0;
	wanted.flags = O_CLOEXEC | O_RDWR;
	note("expbuf", "%s", call(camera, VIDIOC_EXPBUF, &wanted));
	request(camera, 0, V4L2_MEMORY_MMAP);
}

static void note_map(const char *name, int fd, int protection, int flags, size_t length,
		     unsigned long offset)
{
	void *map = mmap(NULL, length, protection, flags, fd, offset);

	note_error(name, map == MAP_FAILED);
	if (map != MAP_FAILED)
		munmap(map, length);
}

static void maps(void)
{
	struct v4l2_buffer buffer = buffer_of(0, V4L2_MEMORY_MMAP), second;
	int reader = open(path, O_RDONLY | O_NONBLOCK);
	int both = PROT_READ | PROT_WRITE;
	unsigned char *map;
	size_t pages;

	note_map("mmap_without", camera, both, MAP_SHARED, page, 0);
	request(camera, 2, V4L2_MEMORY_MMAP);
	ioctl(camera, VIDIOC_QUERYBUF, &buffer);
	second = buffer_of(1, 0);
	ioctl(camera, VIDIOC_QUERYBUF, &second);
	note_map("mmap", camera, both, MAP_SHARED, buffer.length, buffer.m.offset);
	note_map("mmap_second", camera, both, MAP_SHARED, second.length, second.m.offset);
	note_map("mmap_shorter", camera, both, MAP_SHARED, page, buffer.m.offset);
	pages = (buffer.length + page - 1) / page * page;
	note_map("mmap_longer", camera, both, MAP_SHARED, pages + page, buffer.m.offset);
	note_map("mmap_inside", camera, both, MAP_SHARED, page, buffer.m.offset + page);
	note_map("mmap_nowhere", camera, both, MAP_SHARED, page, 0x40000000);
	note_map("mmap_private", camera, both, MAP_PRIVATE, buffer.length, buffer.m.offset);
	note_map("mmap_to_read", camera, PROT_READ, MAP_SHARED, buffer.length, buffer.m.offset);
	note_map("mmap_to_write", camera, PROT_WRITE, MAP_SHARED, buffer.length, buffer.m.offset);
	note_map("mmap_for_nothing", camera, PROT_NONE, MAP_SHARED, buffer.length, buffer.m.offset);
	note_map("mmap_to_execute", camera, PROT_READ | PROT_EXEC, MAP_SHARED, buffer.length,
		 buffer.m.offset);
	note_map("mmap_by_another", other, both, MAP_SHARED, buffer.length, buffer.m.offset);
	note_map("mmap_by_a_reader", reader, PROT_READ, MAP_SHARED, buffer.length, buffer.m.offset);
	note_map("mmap_by_a_reader_to_write", reader, both, MAP_SHARED, buffer.length,
		 buffer.m.offset);
	map = mmap(NULL, buffer.length, both, MAP_SHARED, camera, buffer.m.offset);
	if (map == MAP_FAILED)
		die("mmap");
	note("flags_while_mapped", "%x %x", flags_of(camera, 0), flags_of(camera, 1));
	memset(map, 0x5a, buffer.length);
	note("reqbufs_while_mapped", "%s", request(camera, 0, V4L2_MEMORY_MMAP));
	note("map_outlives_its_buffer", "%x", map[buffer.length - 1]);
	note("reqbufs_anew", "%s", request(camera, 2, V4L2_MEMORY_MMAP));
	note("flags_anew", "%x", flags_of(camera, 0));
	munmap(map, buffer.length);
	request(camera, 0, V4L2_MEMORY_MMAP);
	request(camera, 2, V4L2_MEMORY_USERPTR);
	note_map("mmap_of_user_pointers", camera, both, MAP_SHARED, page, 0);
	request(camera, 0, V4L2_MEMORY_USERPTR);
	close(reader);
}

/* What may be done with a buffer, state by state. */
static void states(void)
{
	struct v4l2_buffer buffer = buffer_of(0, V4L2_MEMORY_MMAP);
	struct v4l2_streamparm parm = { .type = CAPTURE };
	int input = 0;

	request(camera, 3, V4L2_MEMORY_MMAP);
	note("qbuf_past_the_end", "%s", queue(camera, 3));
	note("qbuf_far_past_the_end", "%s", queue(camera, 0xffffffff));
	buffer.memory = V4L2_MEMORY_USERPTR;
	note("qbuf_of_other_memory", "%s", call(camera, VIDIOC_QBUF, &buffer));
	buffer.memory = 0;
	note("qbuf_of_no_memory", "%s", call(camera, VIDIOC_QBUF, &buffer));
	buffer = buffer_of(0, V4L2_MEMORY_MMAP);
	note("qbuf_at_a_page_end", "%s", call(camera, VIDIOC_QBUF, page_end));
	note("flags_dequeued", "%x", flags_of(camera, 0));
	ASK("prepare_buf", call(camera, VIDIOC_PREPARE_BUF, &buffer), "%x", buffer.flags);
	note("flags_prepared", "%x", flags_of(camera, 0));
	note("prepare_buf_twice", "%s", call(camera, VIDIOC_PREPARE_BUF, &buffer));
	buffer = buffer_of(0, V4L2_MEMORY_MMAP);
	buffer.field = 77;
	buffer.bytesused = 0xffffffff;
	buffer.flags = 0xff7fffff & ~V4L2_BUF_FLAG_REQUEST_FD;
	ASK("qbuf_prepared", call(camera, VIDIOC_QBUF, &buffer), "%x field %u", buffer.flags,
	    buffer.field);
	note("qbuf_twice", "%s", queue(camera, 0));
	note("prepare_buf_queued", "%s", call(camera, VIDIOC_PREPARE_BUF, &buffer));
	buffer = buffer_of(1, V4L2_MEMORY_MMAP);
	buffer.flags = V4L2_BUF_FLAG_REQUEST_FD;
	buffer.request_fd = -1;
	note("qbuf_of_a_request", "%s", call(camera, VIDIOC_QBUF, &buffer));
	note("dqbuf_not_streaming", "%s", dequeue(camera));
	note_poll("poll_not_streaming", camera, POLLIN | POLLRDNORM | POLLOUT);
	note("streamoff_not_streaming", "%s", stream(camera, VIDIOC_STREAMOFF));
	note("flags_after_streamoff", "%x", flags_of(camera, 0));

	note("streamon_with_none_queued", "%s", stream(camera, VIDIOC_STREAMON));
	note_poll("poll_with_none_queued", camera, POLLIN | POLLRDNORM | POLLOUT);
	note("dqbuf_with_none_queued", "%s", dequeue(camera));
	note("streamon_twice", "%s", stream(camera, VIDIOC_STREAMON));
	ASK("reqbufs_streaming", request(camera, 3, V4L2_MEMORY_MMAP), "%s", request(camera, 0,
	    V4L2_MEMORY_MMAP));
	note("s_input_streaming", "%s", call(camera, VIDIOC_S_INPUT, &input));
	ioctl(camera, VIDIOC_G_PARM, &parm);
	note("s_parm_streaming", "%s", call(camera, VIDIOC_S_PARM, &parm));
	note("qbuf_streaming", "%s", queue(camera, 0));
	queue(camera, 1);
	queue(camera, 2);
	note("a_frame", "%s", await(camera));
	buffer = buffer_of(0, V4L2_MEMORY_MMAP);
	buffer.type = V4L2_BUF_TYPE_VIDEO_OUTPUT;
	note("dqbuf_of_output", "%s", call(camera, VIDIOC_DQBUF, &buffer));
	note("dqbuf_at_a_page_end", "%s", call(camera, VIDIOC_DQBUF, page_end));
	note("dqbuf_by_another", "%s", dequeue(other));
	note("streamoff_by_another", "%s", stream(other, VIDIOC_STREAMOFF));
	ASK("reqbufs_by_another", request(other, 2, V4L2_MEMORY_MMAP), "%s", request(other, 0,
	    V4L2_MEMORY_MMAP));
	note("qbuf_by_another", "%s", queue(other, 0));
	note("read_by_another", "%s", read(other, &buffer, 8) < 0 ? error_name(errno) : "0");
	note("read_streaming", "%s", read(camera, &buffer, 8) < 0 ? error_name(errno) : "0");
	note("streamoff", "%s", stream(camera, VIDIOC_STREAMOFF));
	note("flags_after_frames", "%x", flags_of(camera, 0) & ~V4L2_BUF_FLAG_ERROR);
	note_poll("poll_after_streamoff", camera, POLLIN | POLLRDNORM | POLLOUT);
	note("dqbuf_after_streamoff", "%s", dequeue(camera));
	request(camera, 0, V4L2_MEMORY_MMAP);
}

/* Frames, with their numbers and times. */
static void frames(unsigned int memory)
{
	struct v4l2_format format = { .type = CAPTURE };
	struct v4l2_buffer buffer;
	unsigned int flags = 0, field = 0, first = 0, last = 0;
	int whole = 1, ascending = 1, later = 1, filled = 1, in_order = 1;
	unsigned char *places[3] = { NULL };
	long long before = 0, time;
	char name[40];

	ioctl(camera, VIDIOC_G_FMT, &format);
	request(camera, 3, memory);
	for (unsigned int i = 0; i < 3; i++) {
		buffer = buffer_of(i, memory);
		if (memory == V4L2_MEMORY_MMAP) {
			ioctl(camera, VIDIOC_QUERYBUF, &buffer);
			places[i] = mmap(NULL, buffer.length, PROT_READ | PROT_WRITE, MAP_SHARED,
					 camera, buffer.m.offset);
		} else {
			places[i] = mmap(NULL, format.fmt.pix.sizeimage, PROT_READ | PROT_WRITE,
					 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		}
		if (places[i] == MAP_FAILED)
			die("mmap");
	}
	for (unsigned int i = 0; i < 12; i++) {
		if (i == 3)
			stream(camera, VIDIOC_STREAMON);
		buffer = buffer_of(i % 3, memory);
		if (i >= 3) {
			await(camera);
			if (ioctl(camera, VIDIOC_DQBUF, &buffer) < 0)
				die("DQBUF");
			time = buffer.timestamp.tv_sec * 1000000LL + buffer.timestamp.tv_usec;
			later &= time >= before;
			before = time;
			whole &= buffer.bytesused == format.fmt.pix.sizeimage;
			in_order &= buffer.index == i % 3;
			ascending &= i == 3 || buffer.sequence >= last;
			first = i == 3 ? buffer.sequence : first;
			last = buffer.sequence;
			flags |= buffer.flags;
			field = buffer.field;
			filled &= memchr(places[buffer.index], 0xa5, 64) == NULL;
		}
		memset(places[i % 3], 0xa5, format.fmt.pix.sizeimage);
		buffer = buffer_of(i % 3, memory);
		buffer.length = format.fmt.pix.sizeimage;
		buffer.m.userptr = (unsigned long)places[i % 3];
		if (ioctl(camera, VIDIOC_QBUF, &buffer) < 0)
			die("QBUF");
	}
	snprintf(name, sizeof(name), "frames_of_memory_%u", memory);
	note(name, "flags %x field %u first %u whole %d ascending %d later %d filled %d in order %d",
	     flags, field, first, whole, ascending, later, filled, in_order);
	stream(camera, VIDIOC_STREAMOFF);
	for (unsigned int i = 0; i < 3; i++)
		munmap(places[i], format.fmt.pix.sizeimage);
	snprintf(name, sizeof(name), "reqbufs_0_of_memory_%u", memory);
	note(name, "%s", request(camera, 0, memory));
}

static void pointers(void)
{
	struct v4l2_format format = { .type = CAPTURE };
	struct v4l2_buffer buffer;
	unsigned char *place;

	ioctl(camera, VIDIOC_G_FMT, &format);
	place = mmap(NULL, format.fmt.pix.sizeimage + page, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	request(camera, 2, V4L2_MEMORY_USERPTR);
	buffer = buffer_of(0, 0);
	ASK("querybuf_of_user_pointers", call(camera, VIDIOC_QUERYBUF, &buffer),
	    "flags %x pointer %lx length %d", buffer.flags, buffer.m.userptr,
	    buffer.length == format.fmt.pix.sizeimage);
	buffer = buffer_of(0, V4L2_MEMORY_USERPTR);
	buffer.length = format.fmt.pix.sizeimage;
	note("qbuf_nowhere", "%s", call(camera, VIDIOC_QBUF, &buffer));
	buffer.m.userptr = (unsigned long)unmapped;
	note("qbuf_unmapped", "%s", call(camera, VIDIOC_QBUF, &buffer));
	buffer.m.userptr = (unsigned long)page_end;
	note("qbuf_unmapped_after_8_bytes", "%s", call(camera, VIDIOC_QBUF, &buffer));
	buffer.m.userptr = ~0UL - 8;
	note("qbuf_at_the_end_of_memory", "%s", call(camera, VIDIOC_QBUF, &buffer));
	buffer.m.userptr = (unsigned long)place;
	buffer.length = 0;
	note("qbuf_of_no_length", "%s", call(camera, VIDIOC_QBUF, &buffer));
	buffer.length = format.fmt.pix.sizeimage - 1;
	note("qbuf_too_short", "%s", call(camera, VIDIOC_QBUF, &buffer));
	buffer.length = format.fmt.pix.sizeimage;
	buffer.m.userptr = (unsigned long)place + 4;
	note("qbuf_at_no_page", "%s", call(camera, VIDIOC_QBUF, &buffer));
	note("streamoff_of_user_pointers", "%s", stream(camera, VIDIOC_STREAMOFF));
	buffer = buffer_of(1, V4L2_MEMORY_USERPTR);
	buffer.m.userptr = (unsigned long)place;
	buffer.length = format.fmt.pix.sizeimage + 1;
	note("prepare_buf_of_a_pointer", "%s", call(camera, VIDIOC_PREPARE_BUF, &buffer));
	buffer.m.userptr = (unsigned long)unmapped;
	note("qbuf_of_another_pointer_than_prepared", "%s", call(camera, VIDIOC_QBUF, &buffer));
	buffer = buffer_of(1, 0);
	ASK("querybuf_prepared", call(camera, VIDIOC_QUERYBUF, &buffer), "pointer %d length %d",
	    buffer.m.userptr == (unsigned long)place, (int)(buffer.length -
	    format.fmt.pix.sizeimage));
	request(camera, 0, V4L2_MEMORY_USERPTR);
	munmap(place, format.fmt.pix.sizeimage + page);
}

static const char *read_of(int fd, void *to, size_t length)
{
	static char text[24];
	ssize_t got = read(fd, to, length);

	if (got < 0)
		return error_name(errno);
	snprintf(text, sizeof(text), "%zd", got);
	return text;
}

/* Frames by read(2). */
static void reads(void)
{
	struct v4l2_format format = { .type = CAPTURE };
	unsigned char *place;
	size_t size;
	int blocking = reopen(0);

	ioctl(camera, VIDIOC_G_FMT, &format);
	size = format.fmt.pix.sizeimage;
	place = malloc(size * 2);
	note("write", "%s", write(camera, place, 8) < 0 ? error_name(errno) : "0");
	note("lseek", "%s", lseek(camera, 0, SEEK_SET) < 0 ? error_name(errno) : "0");
	note("read_by_a_blocking_file", "%s", read_of(blocking, place, 8));
	note("read_the_rest", "%d", read(blocking, place, size * 2) == (ssize_t)size - 8);
	note("read_more_than_a_frame", "%d", read(blocking, place, size * 2) == (ssize_t)size);
	note("read_to_nowhere", "%s", read_of(blocking, unmapped, 8));
	note("read_of_nothing", "%s", read_of(blocking, place, 0));
	note("read_of_another", "%s", read_of(camera, place, 8));
	note("reqbufs_of_another_while_read", "%s", request(camera, 2, V4L2_MEMORY_MMAP));
	note("reqbufs_while_read", "%s", request(blocking, 2, V4L2_MEMORY_MMAP));
	note("reqbufs_0_while_read", "%s", request(blocking, 0, V4L2_MEMORY_MMAP));
	note("streamon_while_read", "%s", stream(blocking, VIDIOC_STREAMON));
	note("qbuf_while_read", "%s", queue(blocking, 0));
	note("s_fmt_while_read", "%s", call(blocking, VIDIOC_S_FMT, &format));
	close(blocking);
	note("reqbufs_after_the_reader", "%s", request(camera, 2, V4L2_MEMORY_MMAP));
	note("read_with_buffers", "%s", read_of(camera, place, 8));
	request(camera, 0, V4L2_MEMORY_MMAP);
	note_poll("poll_starts_reading", camera, POLLIN);
	note("a_frame_to_read", "%s", await(camera));
	close(camera);
	camera = reopen(O_NONBLOCK);
	note("read_at_once", "%s", read_of(camera, place, 8));
	note("a_frame_after_that", "%s", await(camera));
	close(camera);
	camera = reopen(O_NONBLOCK);
	free(place);
}

static void camera_buffers(void)
{
	requests();
	creations();
	exports();
	maps();
	states();
	frames(V4L2_MEMORY_MMAP);
	frames(V4L2_MEMORY_USERPTR);
	pointers();
	reads();
	/* The buffers of a file go with it. */
	request(camera, 2, V4L2_MEMORY_MMAP);
	queue(camera, 0);
	stream(camera, VIDIOC_STREAMON);
	close(camera);
	note("reqbufs_after_the_owner", "%s", request(other, 2, V4L2_MEMORY_MMAP));
	camera = reopen(O_NONBLOCK);
}
