/* An LD_PRELOAD library that makes flushes slower, to imitate a slow disk. PostgreSQL flushes its WAL
   with fdatasync (the default of wal_sync_method on Linux), and its data files with fsync. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

static void wait_longer(void)
{
    const char *given = getenv("SLOW_FLUSH_US");
    long micros = given ? atol(given) : 1000;
    struct timespec pause = { micros / 1000000, micros % 1000000 * 1000 };
    nanosleep(&pause, NULL);
}

int fdatasync(int fd)
{
    static int (*real)(int);
    if (!real)
        real = dlsym(RTLD_NEXT, "fdatasync");
    wait_longer();
    return real(fd);
}

int fsync(int fd)
{
    static int (*real)(int);
    if (!real)
        real = dlsym(RTLD_NEXT, "fsync");
    wait_longer();
    return real(fd);
}
