// Records what a program does to the files of one folder, for powercut.py to play back up to any moment.
//
// Preloaded (LD_PRELOAD) with POWERCUT_FOLDER, an absolute path without links, and POWERCUT_LOG, a file outside it.
// Each call that has succeeded is one record: a line "WHAT OFFSET LENGTH NAME", then LENGTH bytes of content.
// Shared memory (-shm) is not kept by a disk and not recorded.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define MOST_FILES 1024

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char names[MOST_FILES][256];  // by descriptor; empty: not of the folder
static int log_fd = -1;

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

// The name within the folder, "." for the folder itself; NULL: elsewhere, or nothing that a disk keeps.
static const char *name_of(const char *path) {
    const char *folder = getenv("POWERCUT_FOLDER");
    size_t length = folder ? strlen(folder) : 0;
    if (!length || !path || strncmp(path, folder, length)) return NULL;
    if (!path[length]) return ".";
    if (path[length] != '/' || strchr(path + length + 1, '/') || strlen(path + length + 1) > 255) return NULL;
    const char *name = path + length + 1, *end = strrchr(name, '-');
    return end && !strcmp(end, "-shm") ? NULL : name;
}

static void record(const char *what, long long offset, const void *content, size_t length, const char *name) {
    char line[512];
    int written = snprintf(line, sizeof line, "%s %lld %zu %s\n", what, offset, length, name);
    struct iovec parts[] = {{line, (size_t)written}, {(void *)content, length}};
    if (log_fd < 0) {
        REAL(int, "open", const char *, int, ...);
        log_fd = real(getenv("POWERCUT_LOG"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    }
    if (writev(log_fd, parts, 2) != (ssize_t)(written + length)) abort();
}

static void forget(int fd) {
    if (fd >= 0 && fd < MOST_FILES) names[fd][0] = 0;
}

static const char *known(int fd) { return fd >= 0 && fd < MOST_FILES && names[fd][0] ? names[fd] : NULL; }

static int opened(int fd, const char *path, int flags, int existed) {
    const char *name = name_of(path);
    if (fd < 0 || fd >= MOST_FILES) return fd;
    pthread_mutex_lock(&lock);
    forget(fd);
    if (name) {
        strcpy(names[fd], name);
        if (flags & O_CREAT && !existed) record("create", 0, "", 0, name);
        if (flags & O_TRUNC && existed) record("truncate", 0, "", 0, name);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define OPEN(function) \
    EXPORT int function(const char *path, int flags, ...) { \
        REAL(int, #function, const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        int existed = flags & O_CREAT ? !access(path, F_OK) : 1; \
        return opened(real(path, flags, mode), path, flags, existed); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(function) \
    EXPORT int function(int at, const char *path, int flags, ...) { \
        REAL(int, #function, int, const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        int existed = flags & O_CREAT ? !access(path, F_OK) : 1; \
        return opened(real(at, path, flags, mode), path, flags, existed); \
    }
OPENAT(openat)
OPENAT(openat64)

EXPORT int close(int fd) {
    REAL(int, "close", int);
    pthread_mutex_lock(&lock);
    forget(fd);
    pthread_mutex_unlock(&lock);
    return real(fd);
}

// The calls below hold the lock throughout, so that the log has them in their true order.
#define CHANGE(result, call, test, ...) \
    pthread_mutex_lock(&lock); \
    const char *name = known(fd); \
    result done = call; \
    int error = errno; \
    if (name && (test)) record(__VA_ARGS__, name); \
    pthread_mutex_unlock(&lock); \
    errno = error; \
    return done

#define PWRITE(function, offset_type) \
    EXPORT ssize_t function(int fd, const void *content, size_t length, offset_type offset) { \
        REAL(ssize_t, #function, int, const void *, size_t, offset_type); \
        CHANGE(ssize_t, real(fd, content, length, offset), done > 0, "write", offset, content, (size_t)done); \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

EXPORT ssize_t write(int fd, const void *content, size_t length) {
    REAL(ssize_t, "write", int, const void *, size_t);
    off_t offset = known(fd) ? lseek(fd, 0, SEEK_CUR) : 0;
    if (known(fd) && fcntl(fd, F_GETFL) & O_APPEND) offset = lseek(fd, 0, SEEK_END);
    CHANGE(ssize_t, real(fd, content, length), done > 0, "write", offset, content, (size_t)done);
}

#define FTRUNCATE(function, offset_type) \
    EXPORT int function(int fd, offset_type length) { \
        REAL(int, #function, int, offset_type); \
        CHANGE(int, real(fd, length), !done, "truncate", length, "", 0); \
    }
FTRUNCATE(ftruncate, off_t)
FTRUNCATE(ftruncate64, off64_t)

#define FSYNC(function) \
    EXPORT int function(int fd) { \
        REAL(int, #function, int); \
        CHANGE(int, real(fd), !done, "sync", 0, "", 0); \
    }
FSYNC(fsync)
FSYNC(fdatasync)

EXPORT int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    pthread_mutex_lock(&lock);
    int done = real(path), error = errno;
    const char *name = name_of(path);
    if (!done && name) record("unlink", 0, "", 0, name);
    pthread_mutex_unlock(&lock);
    errno = error;
    return done;
}

EXPORT int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    // Nobody renames a database's files. A program that does so must be told to the one that plays back.
    if (name_of(from) || name_of(to)) abort();
    return real(from, to);
}
