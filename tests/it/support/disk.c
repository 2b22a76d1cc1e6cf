/* An LD_PRELOAD library for PostgreSQL that simulates a full or slow disk. Files in the folder $DISK
   control it: `full`, and `slow` with the duration of a write in milliseconds. As on a real full disk,
   existing data can be overwritten, but files cannot grow. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static const char *control_file(const char *what, char *path)
{
    const char *folder = getenv("DISK");
    snprintf(path, PATH_MAX, "%s/%s", folder ? folder : "", what);
    return path;
}

/* Waits if the disk is slow, then returns whether there is space up to `end`. */
static int has_room(int fd, off_t end)
{
    char path[PATH_MAX];
    struct stat file;
    FILE *slow = fopen(control_file("slow", path), "re");
    if (slow) {
        long millis = 0;
        if (fscanf(slow, "%ld", &millis) == 1) {
            struct timespec pause = { millis / 1000, millis % 1000 * 1000000 };
            nanosleep(&pause, NULL);
        }
        fclose(slow);
    }
    if (access(control_file("full", path), F_OK) != 0 || fstat(fd, &file) != 0 || !S_ISREG(file.st_mode)
        || end <= file.st_size) {
        errno = 0;
        return 1;
    }
    errno = ENOSPC;
    return 0;
}

static off_t length(const struct iovec *pieces, int count)
{
    off_t sum = 0;
    for (int i = 0; i < count; i++)
        sum += (off_t)pieces[i].iov_len;
    return sum;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at)
{
    return has_room(fd, at + (off_t)count) ? REAL(pwrite)(fd, bytes, count, at) : -1;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at)
{
    return has_room(fd, at + (off_t)count) ? REAL(pwrite64)(fd, bytes, count, at) : -1;
}

ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t at)
{
    return has_room(fd, at + length(pieces, count)) ? REAL(pwritev)(fd, pieces, count, at) : -1;
}

ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off64_t at)
{
    return has_room(fd, at + length(pieces, count)) ? REAL(pwritev64)(fd, pieces, count, at) : -1;
}

int posix_fallocate(int fd, off_t at, off_t count)
{
    return has_room(fd, at + count) ? REAL(posix_fallocate)(fd, at, count) : ENOSPC;
}

int posix_fallocate64(int fd, off64_t at, off64_t count)
{
    return has_room(fd, at + count) ? REAL(posix_fallocate64)(fd, at, count) : ENOSPC;
}

/* Returns whether the file belongs to the WAL: up to version 13, PostgreSQL fills a new WAL file with write(). */
static int is_of_log(int fd)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return strstr(path, "/pg_wal/") != NULL;
}

ssize_t write(int fd, const void *bytes, size_t count)
{
    if (is_of_log(fd) && !has_room(fd, lseek(fd, 0, SEEK_CUR) + (off_t)count))
        return -1;
    return REAL(write)(fd, bytes, count);
}
