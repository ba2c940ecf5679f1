/* A disk that does what a test says, for one program: LD_PRELOADed into a yard, it stands between the program and the
 * kernel for its database alone (yard.db and yard.db-wal), and looks into the folder named by FSYNC_GATE:
 *
 *   hold        while it is there, an fsync waits
 *   fail-fsync  while it is there, an fsync fails with EIO
 *   fail-file   while it is there, an fsync of yard.db itself, not of its log, fails with EIO
 *   full        while it is there, a write fails with ENOSPC
 *
 * and says there what it did: a byte more in `fsyncs` for each fsync asked for, in `held` for each that had to wait,
 * in `refused` for each write that failed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int named(char *path, size_t size, const char *name) {
    const char *folder = getenv("FSYNC_GATE");
    return folder != NULL && snprintf(path, size, "%s/%s", folder, name) < (int)size;
}

static int says(const char *name) {
    char path[PATH_MAX];
    int before = errno;
    int there = named(path, sizeof path, name) && access(path, F_OK) == 0;
    errno = before;
    return there;
}

static void count(const char *name) {
    char path[PATH_MAX];
    int before = errno;
    if (named(path, sizeof path, name)) {
        int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (file >= 0) {
            if (syscall(SYS_write, file, ".", 1) != 1) abort();
            close(file);
        }
    }
    errno = before;
}

static int ends_with(const char *text, size_t length, const char *end) {
    size_t size = strlen(end);
    return length >= size && memcmp(text + length - size, end, size) == 0;
}

static int is_named(int file, const char *end) {
    char link[64], path[PATH_MAX];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path);
    errno = before;
    return length > 0 && ends_with(path, (size_t)length, end);
}

static int is_database(int file) { return is_named(file, "/yard.db") || is_named(file, "/yard.db-wal"); }

static int gated_sync(long number, int file) {
    if (is_database(file)) {
        count("fsyncs");
        if (says("hold")) {
            count("held");
            while (says("hold")) usleep(1000);
        }
        if (says("fail-fsync") || (says("fail-file") && !is_named(file, "/yard.db-wal"))) {
            errno = EIO;
            return -1;
        }
    }
    return (int)syscall(number, file);
}

int fsync(int file) { return gated_sync(SYS_fsync, file); }
int fdatasync(int file) { return gated_sync(SYS_fdatasync, file); }

static int is_full(int file) {
    if (!says("full") || !is_database(file)) return 0;
    count("refused");
    errno = ENOSPC;
    return 1;
}

ssize_t write(int file, const void *bytes, size_t size) {
    return is_full(file) ? -1 : syscall(SYS_write, file, bytes, size);
}

ssize_t pwrite(int file, const void *bytes, size_t size, off_t at) {
    return is_full(file) ? -1 : syscall(SYS_pwrite64, file, bytes, size, at);
}

ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t at) {
    return is_full(file) ? -1 : syscall(SYS_pwrite64, file, bytes, size, at);
}
