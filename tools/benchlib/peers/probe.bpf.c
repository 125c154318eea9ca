// The peer: the same two hooks as a C/libbpf probe has them, written for these measurements.
// Path is the last component, dedup by (pid, inode), untraced processes looked up by their innermost pid as well.
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct record {
	__u32 source, pid, tid, uid;
	__u64 time;
	__u8 kind, family;
	__u16 port;
	__s32 flags;
	__u8 address[16];
	char comm[16];
	char path[256];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u32);
} traced SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} ring SEC(".maps");

struct seen_key {
	__u64 pid, inode;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, struct seen_key);
	__type(value, __u8);
} seen SEC(".maps");

static __always_inline __u32 traced_pid(__u32 tgid)
{
	struct task_struct *task;
	struct pid *pid;
	unsigned int level;
	__u32 nr;

	if (bpf_map_lookup_elem(&traced, &tgid))
		return tgid;
	task = (void *)bpf_get_current_task();
	pid = BPF_CORE_READ(task, thread_pid);
	level = BPF_CORE_READ(pid, level);
	nr = BPF_CORE_READ(pid, numbers[level].nr);
	if (nr != tgid && bpf_map_lookup_elem(&traced, &nr))
		return nr;
	return 0;
}

static __always_inline void header(struct record *r, __u32 pid, __u64 pid_tgid, __u8 kind)
{
	__builtin_memset(r, 0, sizeof(*r));
	r->source = 8;
	r->kind = kind;
	r->pid = pid;
	r->tid = (__u32)pid_tgid;
	r->uid = bpf_get_current_uid_gid();
	r->time = bpf_ktime_get_ns();
	bpf_get_current_comm(&r->comm, sizeof(r->comm));
}

SEC("lsm/socket_connect")
int BPF_PROG(on_connect, struct socket *sock, struct sockaddr *address, int addrlen, int ret)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 pid = traced_pid(pid_tgid >> 32), v4;
	struct record *r;
	__u16 family;

	if (!pid)
		return ret;
	family = BPF_CORE_READ(address, sa_family);
	if (family != 2 && family != 10)
		return ret;
	if ((family == 2 && addrlen < 16) || (family == 10 && addrlen < 28))
		return ret;
	r = bpf_ringbuf_reserve(&ring, sizeof(*r), 0);
	if (!r)
		return ret;
	header(r, pid, pid_tgid, 1);
	r->family = family;
	if (family == 2) {
		struct sockaddr_in *in = (void *)address;

		r->port = BPF_CORE_READ(in, sin_port);
		v4 = BPF_CORE_READ(in, sin_addr.s_addr);
		__builtin_memcpy(r->address, &v4, 4);
	} else {
		struct sockaddr_in6 *in6 = (void *)address;

		r->port = BPF_CORE_READ(in6, sin6_port);
		BPF_CORE_READ_INTO(&r->address, in6, sin6_addr);
	}
	bpf_ringbuf_submit(r, 0);
	return ret;
}

SEC("lsm/file_open")
int BPF_PROG(on_open, struct file *file, int ret)
{
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	__u32 pid = traced_pid(pid_tgid >> 32);
	struct seen_key key = {};
	const unsigned char *name;
	struct record *r;
	__u8 one = 1;

	if (!pid)
		return ret;
	key.pid = pid;
	key.inode = BPF_CORE_READ(file, f_inode, i_ino);
	if (bpf_map_lookup_elem(&seen, &key))
		return ret;
	name = BPF_CORE_READ(file, f_path.dentry, d_name.name);
	if (!name)
		return ret;
	r = bpf_ringbuf_reserve(&ring, sizeof(*r), 0);
	if (!r)
		return ret;
	header(r, pid, pid_tgid, 2);
	r->flags = BPF_CORE_READ(file, f_flags);
	if (bpf_probe_read_kernel_str(r->path, sizeof(r->path), name) <= 0) {
		bpf_ringbuf_discard(r, 0);
		return ret;
	}
	bpf_ringbuf_submit(r, 0);
	bpf_map_update_elem(&seen, &key, &one, BPF_ANY);
	return ret;
}

char LICENSE[] SEC("license") = "GPL";
