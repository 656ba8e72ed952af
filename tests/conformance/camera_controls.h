/* The part of `camera` that asks about controls and their events. */

static struct v4l2_queryctrl brightness;

static int32_t control_of(int fd, unsigned int id)
{
	struct v4l2_control control = { .id = id };

	return ioctl(fd, VIDIOC_G_CTRL, &control) < 0 ? -1 : control.value;
}

static const char *set_control(int fd, unsigned int id, int32_t value)
{
	struct v4l2_control control = { .id = id, .value = value };

	return call(fd, VIDIOC_S_CTRL, &control);
}

/* The first control of a type, or 0. */
static unsigned int control_of_type(unsigned int type)
{
	struct v4l2_queryctrl query = { .id = V4L2_CTRL_FLAG_NEXT_CTRL };

	while (ioctl(camera, VIDIOC_QUERYCTRL, &query) == 0) {
		if (query.type == type && !(query.flags & V4L2_CTRL_FLAG_DISABLED))
			return query.id;
		query.id |= V4L2_CTRL_FLAG_NEXT_CTRL;
	}
	return 0;
}

static void queries(void)
{
	static const struct {
		const char *name;
		unsigned int id;
	} ids[] = {
		{ "nothing", 0 }, { "past", V4L2_CID_BRIGHTNESS - 1 },
		{ "class_of_users", V4L2_CID_USER_CLASS }, { "no_class", V4L2_CTRL_CLASS_DETECT | 1 },
		{ "last", 0x0fffffff },
		{ "next_of_last", 0x0fffffff | V4L2_CTRL_FLAG_NEXT_CTRL },
		{ "next_compound", V4L2_CTRL_FLAG_NEXT_COMPOUND | 0x0fffffff },
		{ "top_bit", 0x10000000 | V4L2_CID_BRIGHTNESS },
	};
	struct v4l2_query_ext_ctrl ext;
	struct v4l2_queryctrl query;
	struct v4l2_querymenu menu;
	unsigned int of_menu = control_of_type(V4L2_CTRL_TYPE_MENU), last = 0;
	int ascending = 1;
	char name[40];

	memset(&brightness, 0xff, sizeof(brightness));
	brightness.id = V4L2_CID_BRIGHTNESS;
	note("queryctrl", "%s", call(camera, VIDIOC_QUERYCTRL, &brightness));
	note("queryctrl_rest", "id %x type %u name %s flags %x step %d %s", brightness.id,
	     brightness.type, (char *)brightness.name, brightness.flags, brightness.step,
	     ZEROS(brightness.reserved));
	for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		query = (struct v4l2_queryctrl){ .id = ids[i].id };
		ext = (struct v4l2_query_ext_ctrl){ .id = ids[i].id };
		snprintf(name, sizeof(name), "queryctrl_of_%s", ids[i].name);
		note(name, "%s", call(camera, VIDIOC_QUERYCTRL, &query));
		snprintf(name, sizeof(name), "query_ext_ctrl_of_%s", ids[i].name);
		note(name, "%s", call(camera, VIDIOC_QUERY_EXT_CTRL, &ext));
		snprintf(name, sizeof(name), "g_ctrl_of_%s", ids[i].name);
		note(name, "%s", control_of(camera, ids[i].id) == -1 ? error_name(errno) : "0");
		snprintf(name, sizeof(name), "s_ctrl_of_%s", ids[i].name);
		note(name, "%s", set_control(camera, ids[i].id, brightness.default_value));
	}
	query.id = V4L2_CTRL_FLAG_NEXT_CTRL;
	while (ioctl(camera, VIDIOC_QUERYCTRL, &query) == 0) {
		ascending &= query.id > last;
		last = query.id;
		query.id |= V4L2_CTRL_FLAG_NEXT_CTRL;
	}
	note("queryctrl_ascends_and_ends", "%d %s", ascending, error_name(errno));
	memset(&ext, 0xff, sizeof(ext));
	ext.id = V4L2_CID_BRIGHTNESS;
	note("query_ext_ctrl", "%s", call(camera, VIDIOC_QUERY_EXT_CTRL, &ext));
	note("query_ext_ctrl_rest", "size %u elems %u dims %u %s %s", ext.elem_size, ext.elems,
	     ext.nr_of_dims, ZEROS(ext.dims), ZEROS(ext.reserved));
	note("query_ext_ctrl_is_the_same", "%d", ext.minimum == brightness.minimum &&
	     ext.maximum == brightness.maximum && ext.flags == brightness.flags);

	memset(&menu, 0xff, sizeof(menu));
	menu.id = of_menu;
	menu.index = 1;
	ASK("querymenu", call(camera, VIDIOC_QUERYMENU, &menu), "%u", menu.reserved);
	menu.index = 1000;
	note("querymenu_past_the_end", "%s", call(camera, VIDIOC_QUERYMENU, &menu));
	menu.index = 0xffffffff;
	note("querymenu_far_past_the_end", "%s", call(camera, VIDIOC_QUERYMENU, &menu));
	menu = (struct v4l2_querymenu){ .id = V4L2_CID_BRIGHTNESS };
	note("querymenu_of_a_number", "%s", call(camera, VIDIOC_QUERYMENU, &menu));
	menu.id = 1;
	note("querymenu_of_nothing", "%s", call(camera, VIDIOC_QUERYMENU, &menu));
	menu.id = of_menu | V4L2_CTRL_FLAG_NEXT_CTRL;
	note("querymenu_of_the_next", "%s", call(camera, VIDIOC_QUERYMENU, &menu));
}

static void values(void)
{
	unsigned int of_menu = control_of_type(V4L2_CTRL_TYPE_MENU);
	unsigned int of_bool = control_of_type(V4L2_CTRL_TYPE_BOOLEAN);
	unsigned int of_button = control_of_type(V4L2_CTRL_TYPE_BUTTON);

	note("g_ctrl", "%d", control_of(camera, V4L2_CID_BRIGHTNESS) == brightness.default_value);
	ASK("s_ctrl_too_large", set_control(camera, V4L2_CID_BRIGHTNESS, brightness.maximum +
	    1), "%d", control_of(camera, V4L2_CID_BRIGHTNESS) == brightness.maximum);
	ASK("s_ctrl_too_small", set_control(camera, V4L2_CID_BRIGHTNESS, brightness.minimum -
	    1), "%d", control_of(camera, V4L2_CID_BRIGHTNESS) == brightness.minimum);
	note("s_ctrl_is_seen_by_others", "%d",
	     control_of(other, V4L2_CID_BRIGHTNESS) == brightness.minimum);
	note("s_ctrl_back", "%s",
	     set_control(other, V4L2_CID_BRIGHTNESS, brightness.default_value));
	note("s_ctrl_menu_too_large", "%s", set_control(camera, of_menu, 1000));
	note("s_ctrl_menu_too_small", "%s", set_control(camera, of_menu, -1));
	ASK("s_ctrl_bool_of_2", set_control(camera, of_bool, 2), "%d", control_of(camera,
	    of_bool));
	ASK("s_ctrl_bool_of_minus_1", set_control(camera, of_bool, -1), "%d", control_of(camera,
	    of_bool));
	note("s_ctrl_bool_back", "%s", set_control(camera, of_bool, 0));
	note("there_is_a_button", "%d", of_button != 0);
	if (of_button) {
		note("s_ctrl_button", "%s", set_control(camera, of_button, 5));
		note("g_ctrl_button", "%s",
		     control_of(camera, of_button) == -1 ? error_name(errno) : "0");
	}
}

/* An array of controls, each way. */
static void note_list(const char *name, unsigned int which, unsigned int count,
		      const struct v4l2_ext_control *controls)
{
	static const struct {
		const char *name;
		unsigned int command;
	} ways[] = { { "g", VIDIOC_G_EXT_CTRLS }, { "try", VIDIOC_TRY_EXT_CTRLS },
		     { "s", VIDIOC_S_EXT_CTRLS } };

	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		struct v4l2_ext_control copy[4] = { { 0 } };
		struct v4l2_ext_controls list;
		const char *said;
		char full[60];

		if (controls && controls != unmapped)
			memcpy(copy, controls, (count < 4 ? count : 4) * sizeof(copy[0]));
		memset(&list, 0xff, sizeof(list));
		list.which = which;
		list.count = count;
		list.controls = controls == unmapped ? unmapped : controls ? copy : NULL;
		snprintf(full, sizeof(full), "%s_ext_ctrls_%s", ways[i].name, name);
		said = call(camera, ways[i].command, &list);
		note(full, "%s %d %s", said, (int)list.error_idx, ZEROS(list.reserved));
	}
}

static void lists(void)
{
	unsigned int of_button = control_of_type(V4L2_CTRL_TYPE_BUTTON);
	struct v4l2_ext_control one[4] = { { .id = V4L2_CID_BRIGHTNESS } };
	struct v4l2_ext_control *bad = one;
	struct v4l2_ext_controls list;

	one[0].value = brightness.default_value;
	note_list("none", 0, 0, NULL);
	note_list("none_of_users", V4L2_CTRL_CLASS_USER, 0, NULL);
	note_list("none_of_codecs", V4L2_CTRL_CLASS_CODEC, 0, NULL);
	note_list("none_of_no_class", 0x00e00000, 0, NULL);
	note_list("none_of_defaults", V4L2_CTRL_WHICH_DEF_VAL, 0, NULL);
	note_list("none_of_a_request", V4L2_CTRL_WHICH_REQUEST_VAL, 0, NULL);
	note_list("one", 0, 1, one);
	note_list("one_of_users", V4L2_CTRL_CLASS_USER, 1, one);
	note_list("one_of_cameras", V4L2_CTRL_CLASS_CAMERA, 1, one);
	note_list("one_of_defaults", V4L2_CTRL_WHICH_DEF_VAL, 1, one);
	note_list("one_of_a_request", V4L2_CTRL_WHICH_REQUEST_VAL, 1, one);
	note_list("one_nowhere", 0, 1, NULL);
	note_list("one_unmapped", 0, 1, unmapped);
	note_list("1025", 0, 1025, unmapped);
	note_list("many", 0, 0xffffffff, unmapped);
	one[1].id = V4L2_CID_BRIGHTNESS - 1;
	note_list("second_is_nothing", 0, 2, one);
	one[1].id = V4L2_CID_USER_CLASS;
	note_list("second_is_a_class", 0, 2, one);
	one[1] = one[0];
	note_list("twice_the_same", 0, 2, one);
	one[1].value = brightness.maximum + 1000;
	note_list("second_too_large", 0, 2, one);
	one[1] = (struct v4l2_ext_control){ .id = control_of_type(V4L2_CTRL_TYPE_MENU) };
	one[1].value = 1000;
	note_list("second_is_no_item", 0, 2, one);
	if (of_button) {
		one[1] = (struct v4l2_ext_control){ .id = of_button };
		note_list("second_is_a_button", 0, 2, one);
	}
	set_control(camera, V4L2_CID_BRIGHTNESS, brightness.default_value);
	bad->id = V4L2_CID_BRIGHTNESS;
	memset(bad->reserved2, 0xff, sizeof(bad->reserved2));
	bad->size = 77;
	list = (struct v4l2_ext_controls){ .count = 1, .controls = bad };
	ASK("g_ext_ctrls_fields", call(camera, VIDIOC_G_EXT_CTRLS, &list), "size %u %s",
	    bad->size, ZEROS(bad->reserved2));
}

static void camera_controls(void)
{
	queries();
	values();
	lists();
}

static const char *subscribe(int fd, unsigned int type, unsigned int id, unsigned int flags)
{
	struct v4l2_event_subscription wanted = { .type = type, .id = id, .flags = flags };

	return call(fd, VIDIOC_SUBSCRIBE_EVENT, &wanted);
}

static const char *unsubscribe(int fd, unsigned int type, unsigned int id)
{
	struct v4l2_event_subscription wanted = { .type = type, .id = id };

	return call(fd, VIDIOC_UNSUBSCRIBE_EVENT, &wanted);
}

static void note_event(const char *name, int fd)
{
	struct v4l2_event event;
	const char *said;

	memset(&event, 0xff, sizeof(event));
	said = call(fd, VIDIOC_DQEVENT, &event);
	if (said[0] != '0')
		note(name, "%s", said);
	else
		note(name, "type %u id %x pending %u sequence %u changes %x type %u value %d %s",
		     event.type, event.id, event.pending, event.sequence, event.u.ctrl.changes,
		     event.u.ctrl.type, event.u.ctrl.value - brightness.default_value,
		     ZEROS(event.reserved));
}

static void camera_events(void)
{
	static const unsigned int types[] = { V4L2_EVENT_ALL, V4L2_EVENT_VSYNC, V4L2_EVENT_EOS,
		V4L2_EVENT_CTRL, V4L2_EVENT_FRAME_SYNC, V4L2_EVENT_SOURCE_CHANGE,
		V4L2_EVENT_MOTION_DET, V4L2_EVENT_PRIVATE_START };
	int32_t value = brightness.default_value;
	char name[40];

	note_event("dqevent_nothing", camera);
	note_poll("poll_before_events", camera, POLLPRI);
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		snprintf(name, sizeof(name), "subscribe_%x_of_nothing", types[i]);
		note(name, "%s", subscribe(camera, types[i], 0, 0));
		snprintf(name, sizeof(name), "unsubscribe_%x_of_nothing", types[i]);
		note(name, "%s", unsubscribe(camera, types[i], 0));
	}
	note("subscribe_flags", "%s", subscribe(other, V4L2_EVENT_CTRL, V4L2_CID_BRIGHTNESS, ~7U));
	unsubscribe(other, V4L2_EVENT_CTRL, V4L2_CID_BRIGHTNESS);
	note("subscribe", "%s", subscribe(camera, V4L2_EVENT_CTRL, V4L2_CID_BRIGHTNESS, 0));
	note("subscribe_twice", "%s", subscribe(camera, V4L2_EVENT_CTRL, V4L2_CID_BRIGHTNESS,
						V4L2_EVENT_SUB_FL_SEND_INITIAL));
	note_event("dqevent_after_twice", camera);
	set_control(camera, V4L2_CID_BRIGHTNESS, value + 1);
	note_event("dqevent_of_oneself", camera);
	set_control(other, V4L2_CID_BRIGHTNESS, value + 2);
	note_poll("poll_of_an_event", camera, POLLPRI);
	note_event("dqevent_of_another", camera);
	note_event("dqevent_again", camera);
	set_control(other, V4L2_CID_BRIGHTNESS, value + 2);
	note_event("dqevent_of_no_change", camera);
	set_control(other, V4L2_CID_BRIGHTNESS, value + 3);
	set_control(other, V4L2_CID_BRIGHTNESS, value + 4);
	note_event("dqevent_of_two_changes", camera);
	note_event("dqevent_after_two_changes", camera);
	note("unsubscribe", "%s", unsubscribe(camera, V4L2_EVENT_CTRL, V4L2_CID_BRIGHTNESS));
	set_control(other, V4L2_CID_BRIGHTNESS, value + 5);
	note_event("dqevent_after_unsubscribe", camera);
	note("unsubscribe_twice", "%s", unsubscribe(camera, V4L2_EVENT_CTRL, V4L2_CID_BRIGHTNESS));
	note("subscribe_initial", "%s", subscribe(camera, V4L2_EVENT_CTRL, V4L2_CID_BRIGHTNESS,
		V4L2_EVENT_SUB_FL_SEND_INITIAL | V4L2_EVENT_SUB_FL_ALLOW_FEEDBACK));
	note_event("dqevent_initial", camera);
	set_control(camera, V4L2_CID_BRIGHTNESS, value + 6);
	note_event("dqevent_feedback", camera);
	set_control(other, V4L2_CID_BRIGHTNESS, value + 7);
	note("unsubscribe_all", "%s", unsubscribe(camera, V4L2_EVENT_ALL, 0));
	note_event("dqevent_after_unsubscribe_all", camera);
	note_poll("poll_after_unsubscribe_all", camera, POLLPRI);
	note("subscribe_class", "%s", subscribe(camera, V4L2_EVENT_CTRL, V4L2_CID_USER_CLASS,
						V4L2_EVENT_SUB_FL_SEND_INITIAL));
	note_event("dqevent_of_a_class", camera);
	unsubscribe(camera, V4L2_EVENT_ALL, 0);
	set_control(camera, V4L2_CID_BRIGHTNESS, value);
}
