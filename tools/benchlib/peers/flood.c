// Opens as fast as they can be made: flood DIRECTORY PROCESSES FILES ROUNDS SECONDS.
//
// PROCESSES parents have children, one after the other; a child opens each of its parent's FILES files ROUNDS times and
// ends. What an audit has to record is 1 of ROUNDS: a child is another process, the other rounds are repetitions.
// A byte on standard input starts it; it ends after SECONDS, but not while there is a file DIRECTORY/more. Counts are in DIRECTORY/counts all the while: for each parent opens made,
// children that have ended well, the longest time between two opens of a child in nanoseconds. Exit status 1 if an open failed.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct counts {
	unsigned long long opens, lives, longest;
};

static unsigned long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

// Returns 0 if all opens succeeded.
static int live(volatile struct counts *counts, char (*names)[16], int files, int rounds)
{
	unsigned long long before = now(), after;
	int round, file, fd;

	for (round = 0; round < rounds; round++)
		for (file = 0; file < files; file++) {
			fd = open(names[file], O_RDONLY);
			if (fd < 0 || close(fd))
				return 1;
			counts->opens++;
			after = now();
			if (after - before > counts->longest)
				counts->longest = after - before;
			before = after;
		}
	return 0;
}

static int parent(volatile struct counts *counts, int number, int files, int rounds, unsigned long long until)
{
	char (*names)[16] = malloc(files * sizeof(*names));
	int file, status;
	pid_t child;

	for (file = 0; file < files; file++)
		sprintf(names[file], "%d-%d", number, file);
	do {
		child = fork();
		if (!child)
			_exit(live(counts, names, files, rounds));
		if (child < 0 || waitpid(child, &status, 0) != child || status)
			return 1;
		counts->lives++;
	} while (now() < until || !access("more", F_OK));
	return 0;
}

int main(int argc, char **argv)
{
	int processes, files, rounds, number, file, fd, status, failed = 0;
	unsigned long long until;
	char name[32], byte;
	struct counts *counts;

	if (argc != 6 || chdir(argv[1]))
		return 2;
	processes = atoi(argv[2]);
	files = atoi(argv[3]);
	rounds = atoi(argv[4]);
	for (number = 0; number < processes; number++)
		for (file = 0; file < files; file++) {
			sprintf(name, "%d-%d", number, file);
			close(open(name, O_WRONLY | O_CREAT, 0600));
		}
	fd = open("counts", O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || ftruncate(fd, processes * sizeof(*counts)))
		return 2;
	counts = mmap(NULL, processes * sizeof(*counts), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (counts == MAP_FAILED || write(1, "ready\n", 6) != 6 || read(0, &byte, 1) != 1)
		return 2;
	until = now() + strtod(argv[5], NULL) * 1e9;
	for (number = 0; number < processes; number++)
		if (!fork())
			_exit(parent(&counts[number], number, files, rounds, until));
	while (wait(&status) > 0)
		failed |= status != 0;
	return failed;
}
