/* A wall clock that a test can set wrong, for one process that is started with this library in
 * LD_PRELOAD and VSR_CLOCK_FILE naming a file: its first eight bytes are the seconds to add, a
 * signed number in the order of the machine, and may be rewritten at any time. The monotonic clock
 * is left alone, as it is when an administrator or a time server sets the wall clock. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const volatile long long *offset;

__attribute__((constructor)) static void clock_open(void) {
    const char *path = getenv("VSR_CLOCK_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) abort();
    void *page = mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    if (page == MAP_FAILED) abort();
    offset = page;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    long result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && clock == CLOCK_REALTIME && offset) time->tv_sec += *offset;
    return (int)result;
}
