// Loads and attaches the C probe with libbpf, says how long that took, and stays until standard input ends.
#include <bpf/libbpf.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#include "probe.skel.h"

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int quiet(enum libbpf_print_level level, const char *format, va_list arguments)
{
	return 0;
}

int main(void)
{
	long long start = now(), loaded, attached;
	struct rusage usage;
	struct probe *probe;
	char byte;

	libbpf_set_print(quiet);
	probe = probe__open();
	if (!probe || probe__load(probe)) {
		perror("load");
		return 1;
	}
	loaded = now();
	if (probe__attach(probe)) {
		perror("attach");
		return 1;
	}
	attached = now();
	getrusage(RUSAGE_SELF, &usage);
	printf("%lld %lld %ld\n", loaded - start, attached - loaded, usage.ru_maxrss);
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	return 0;
}
