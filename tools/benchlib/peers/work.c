// Workloads: work NAME ROUNDS. Each byte on standard input starts a repetition, which prints nanoseconds per round:
// s opens one file again and again, n opens files never opened before, a opens those of n again, c connects a UDP
// socket; g is the workload NAME. `work make ROUNDS` makes the files that n needs, in $WORK or /tmp/work.
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static const char *folder = "/tmp/work";

static void numbered(int number, int flags)
{
	char path[512];

	sprintf(path, "%s/f%06d", folder, number);
	close(open(path, flags, 0600));
}

int main(int argc, char **argv)
{
	const char *name = argv[1];
	int rounds = atoi(argv[2]), fd = -1, first = 0, i;
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = htonl(0x7f000001) };
	char byte;
	long long start;

	if (getenv("WORK"))
		folder = getenv("WORK");
	if (!strcmp(name, "make")) {
		for (i = 0; i < rounds; i++)
			numbered(i, O_CREAT | O_RDWR);
		return 0;
	}
	while (read(0, &byte, 1) == 1) {
		if (byte == 'g')
			byte = name[0];
		if (byte == 's') {
			close(open("/tmp/work/same", O_CREAT | O_RDWR, 0600));
			close(open("/tmp/work/same", O_RDONLY));
			start = now();
			for (i = 0; i < rounds; i++)
				close(open("/tmp/work/same", O_RDONLY));
		} else if (byte == 'n') {
			start = now();
			for (i = 0; i < rounds; i++)
				numbered(first + i, O_RDONLY);
			first += rounds;
		} else if (byte == 'a') {
			start = now();
			for (i = 0; i < rounds; i++)
				numbered(i, O_RDONLY);
		} else {
			if (fd < 0)
				fd = socket(AF_INET, SOCK_DGRAM, 0);
			connect(fd, (void *)&to, sizeof(to));
			start = now();
			for (i = 0; i < rounds; i++)
				connect(fd, (void *)&to, sizeof(to));
		}
		printf("%.1f\n", (double)(now() - start) / rounds);
		fflush(stdout);
	}
	return 0;
}
