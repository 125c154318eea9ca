// Workloads: work NAME ROUNDS; begins when a byte comes on standard input, prints nanoseconds per round.
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

int main(int argc, char **argv)
{
	const char *name = argv[1];
	int rounds = atoi(argv[2]), fd, i;
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = htonl(0x7f000001) };
	char path[64], byte;
	long long start;

	if (!strcmp(name, "make")) {
		for (i = 0; i < rounds; i++) {
			sprintf(path, "/tmp/work/f%06d", i);
			close(open(path, O_CREAT | O_RDWR, 0600));
		}
		return 0;
	}
	if (read(0, &byte, 1) != 1)
		return 1;
	if (!strcmp(name, "same")) {
		close(open("/tmp/work/same", O_CREAT | O_RDWR, 0600));
		close(open("/tmp/work/same", O_RDONLY));
		start = now();
		for (i = 0; i < rounds; i++)
			close(open("/tmp/work/same", O_RDONLY));
	} else if (!strcmp(name, "new")) {
		start = now();
		for (i = 0; i < rounds; i++) {
			sprintf(path, "/tmp/work/f%06d", i);
			close(open(path, O_RDONLY));
		}
	} else {
		fd = socket(AF_INET, SOCK_DGRAM, 0);
		connect(fd, (void *)&to, sizeof(to));
		start = now();
		for (i = 0; i < rounds; i++)
			connect(fd, (void *)&to, sizeof(to));
	}
	printf("%.1f\n", (double)(now() - start) / rounds);
	return 0;
}
