/* passing PATH ROUNDS: descriptors of a device that go over sockets: to another process, around
 * in a circle that nobody can reach any more, and back to their sender while it is closed. */
#include "check.h"

#include <sys/socket.h>

#define GIVEN 0x5ec2e704u

static const char *path;

static void give(int socket, int fd)
{
	char byte = 'x', room[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1,
				  .msg_control = room, .msg_controllen = sizeof(room) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(int));
	if (sendmsg(socket, &message, 0) != 1)
		_exit(20);
}

static int take(int socket)
{
	char byte, room[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1,
				  .msg_control = room, .msg_controllen = sizeof(room) };
	int fd;

	if (recvmsg(socket, &message, 0) != 1 || !CMSG_FIRSTHDR(&message))
		_exit(21);
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
	return fd;
}

/* Maps what it was given. In trapped mode a descriptor that came so is a device again only
 * from 960 on: see COMPAT.md. */
static int maps(int fd)
{
	volatile uint32_t *area = mmap(NULL, page, PROT_READ, MAP_SHARED, fd, 0);
	int right;

	if (area == MAP_FAILED)
		return errno == ENODEV ? 0 : 22;
	right = area[0] == GIVEN;
	munmap((void *)area, page);
	return right ? 0 : 23;
}

static int receiver(void *socket)
{
	return maps(take(*(int *)socket));
}

int main(int argc, char **argv)
{
	int pair[2], wrong = 0, rounds;
	char state[16] = "";

	start();
	if (argc != 3) {
		fprintf(stderr, "usage: passing PATH ROUNDS\n");
		return 2;
	}
	path = argv[1];
	rounds = atoi(argv[2]);
	for (int i = 0; i < rounds; i++) {
		int fd = open(path, O_RDWR);

		if (fd < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
			die("open");
		give(pair[0], fd);
		close(fd); /* the last one is on its way */
		wrong += in_child(receiver, &pair[1]) != 0;
		give(pair[0], open(path, O_RDONLY | O_CLOEXEC));
		wrong += in_child(receiver, &pair[1]) != 0;
		/* Both ends on their way through themselves, with a device behind. */
		give(pair[0], pair[1]);
		give(pair[0], open(path, O_RDWR));
		give(pair[1], pair[0]);
		close(pair[0]);
		close(pair[1]);
		for (int number = 3; number < 1024; number++)
			if (i % 8 == 7)
				close(number);
	}
	check("received", 0, wrong);
	rounds = open(path, O_RDWR);
	check("others", 6, (int)read(rounds, state, sizeof(state)));
	check_text("others_hold", "whole\n", state);
	return finish();
}
