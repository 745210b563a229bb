/* One file that needs no Python: the frozen agent, and this, which puts it in a folder and becomes it.

   The one thing to know: it *becomes* the agent (exec), it does not stand beside it. So there is one process, its
   number is the one that was started, every signal meets it once, and kill -9 leaves nothing: not a child that lives
   on, nor a folder, for the folder is there for the next start.

   The folder is made by the first start of a version, and looked over by each: a file that is missing, has another
   size or is another user's is written again, beside its place and then moved there. So starts may race, be killed or
   follow a tidy-up of the folder. Each start holds a lock on its version until it ends; the first start of a version
   removes those that nobody holds. */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __APPLE__
#include <mach-o/dyld.h>
#include <sys/mount.h>
#else
#include <sys/statvfs.h>
#endif

/* Made by the build: PAYLOAD_ID (the version and a hash of the content), PROGRAM, and the table of files:
   { path, mode, offset, size }. The content itself is in `payload.bin`. */
struct entry {
    const char *path;
    mode_t mode;
    size_t offset, size;
};
#include "payload.h"

#ifdef __APPLE__
__asm__(".const\n.globl _payload\n.p2align 4\n_payload:\n.incbin \"payload.bin\"\n");
#else
__asm__(".section .rodata\n.globl payload\n.balign 16\npayload:\n.incbin \"payload.bin\"\n.previous\n"
        ".section .note.GNU-stack,\"\",%progbits\n.previous\n");
#endif
extern const char payload[];

/* Where the frozen program has its libraries; `entry.py` takes it out of the environment again. */
#define LIBRARIES "_internal"
#define FOLDER_VARIABLE "VESPID_AGENT_UNPACK_DIR"
#define STARTED_AS_VARIABLE "VESPID_AGENT_STARTED_AS"
/* "It is there and cannot be executed", as shells say it. */
#define CANNOT_EXECUTE 126

/* Why each place would not do, for the end. */
static char refused[8192];

static int refuse(const char *place, const char *reason) {
    size_t used = strlen(refused);
    snprintf(refused + used, sizeof refused - used, "  %s: %s\n", place, reason);
    return -1;
}

/* Answers false where it does not fit; nothing is done with half a path then. */
static int join(char *path, const char *folder, const char *name) {
    return snprintf(path, PATH_MAX, "%s/%s", folder, name) < PATH_MAX;
}

static int make_folders(const char *path, mode_t mode) {
    char part[PATH_MAX];
    snprintf(part, sizeof part, "%s", path);
    for (char *slash = strchr(part + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(part, mode) != 0 && errno != EEXIST) return -1;
        *slash = '/';
    }
    return mkdir(part, mode) == 0 || errno == EEXIST ? 0 : -1;
}

static int forbids_execution(const char *path) {
#ifdef __APPLE__
    struct statfs where;
    return statfs(path, &where) == 0 && (where.f_flags & MNT_NOEXEC);
#else
    struct statvfs where;
    return statvfs(path, &where) == 0 && (where.f_flag & ST_NOEXEC);
#endif
}

/* Ours, and nobody else may write there: what lies in it is about to be executed. */
static int is_ours(const struct stat *found) {
    return found->st_uid == geteuid() && (S_ISLNK(found->st_mode) || !(found->st_mode & (S_IWGRP | S_IWOTH)));
}

static int is_in_place(const char *path, const struct entry *wanted) {
    struct stat found;
    return lstat(path, &found) == 0 && is_ours(&found) && (found.st_mode & S_IFMT) == (wanted->mode & S_IFMT) &&
           (size_t)found.st_size == wanted->size;
}

static int write_all(int file, const char *content, size_t size) {
    while (size > 0) {
        ssize_t written = write(file, content, size);
        if (written < 0 && errno != EINTR) return -1;
        if (written > 0) content += written, size -= (size_t)written;
    }
    return 0;
}

/* Beside its place first: nobody ever sees half of it. */
static int put(const char *path, const struct entry *wanted) {
    char beside[PATH_MAX], target[PATH_MAX];
    const char *content = payload + wanted->offset;
    if (snprintf(beside, sizeof beside, "%s.%ld~", path, (long)getpid()) >= (int)sizeof beside) {
        errno = ENAMETOOLONG;
        return -1;
    }
    unlink(beside);
    if (S_ISLNK(wanted->mode)) {
        snprintf(target, sizeof target, "%.*s", (int)wanted->size, content);
        if (symlink(target, beside) != 0) return -1;
    } else {
        int file = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, wanted->mode & 0777);
        if (file < 0) return -1;
        int failed = write_all(file, content, wanted->size) != 0 || fchmod(file, wanted->mode & 0777) != 0;
        int reason = errno;
        if (close(file) != 0 && !failed) failed = 1, reason = errno;
        if (failed) {
            unlink(beside);
            errno = reason;
            return -1;
        }
    }
    if (rename(beside, path) == 0) return 0;
    int reason = errno;
    unlink(beside);
    errno = reason;
    return -1;
}

/* The number of files that had to be written, or -1. */
static int look_over(const char *folder) {
    char path[PATH_MAX];
    int written = 0;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        if (!join(path, folder, files[i].path)) {
            errno = ENAMETOOLONG;
            return -1;
        }
        if (is_in_place(path, &files[i])) continue;
        *strrchr(path, '/') = '\0';
        if (make_folders(path, 0700) != 0) return -1;
        path[strlen(path)] = '/';
        if (put(path, &files[i]) != 0) return -1;
        written++;
    }
    return written;
}

/* Open from here to the end of the process, so also after exec: which is how long its version is in use. */
static int hold(const char *folder, int how) {
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s.lock", folder) >= (int)sizeof path) return -1;
    int lock = open(path, O_RDONLY | O_CREAT | O_NOFOLLOW, 0600);
    while (lock >= 0 && flock(lock, how) != 0) {
        if (errno == EINTR) continue;
        close(lock);
        return -1;
    }
    return lock;
}

static int remove_one(const char *path, const struct stat *found, int kind, struct FTW *where) {
    (void)found, (void)kind, (void)where;
    return remove(path);
}

/* Other versions that no process holds. What cannot be removed stays: it only takes room. */
static void remove_others(const char *base) {
    char path[PATH_MAX];
    DIR *all = opendir(base);
    if (all == NULL) return;
    for (struct dirent *one; (one = readdir(all)) != NULL;) {
        struct stat found;
        if (one->d_name[0] == '.' || strcmp(one->d_name, PAYLOAD_ID) == 0 || !join(path, base, one->d_name)) continue;
        if (lstat(path, &found) != 0 || !S_ISDIR(found.st_mode)) continue;
        int lock = hold(path, LOCK_EX | LOCK_NB);
        if (lock < 0) continue;
        nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
        close(lock);
    }
    closedir(all);
}

/* The frozen program's own starter needs a library before it can say where they are (zlib, which small systems lack). */
static int point_to_libraries(const char *folder) {
#ifdef __linux__
    const char *before = getenv("LD_LIBRARY_PATH");
    size_t room = strlen(folder) + strlen(LIBRARIES) + (before != NULL ? strlen(before) : 0) + 3;
    char *path = malloc(room);
    if (path == NULL) return -1;
    snprintf(path, room, "%s/%s%s%s", folder, LIBRARIES, before != NULL ? ":" : "", before != NULL ? before : "");
    int failed = setenv("LD_LIBRARY_PATH", path, 1);
    free(path);
    return failed;
#else
    (void)folder;
    return 0;
#endif
}

/* Returns only where this place will not do. */
static int become_agent(const char *base, char **argv) {
    char folder[PATH_MAX], program[PATH_MAX];
    struct stat found;
    if (!join(folder, base, PAYLOAD_ID) || !join(program, folder, PROGRAM)) return refuse(base, strerror(ENAMETOOLONG));
    if (make_folders(base, 0700) != 0 || lstat(base, &found) != 0) return refuse(base, strerror(errno));
    if (!S_ISDIR(found.st_mode) || !is_ours(&found)) return refuse(base, "others may write there");
    if (forbids_execution(base)) return refuse(base, "nothing may be executed there (noexec)");
    int lock = hold(folder, LOCK_SH);
    if (lock < 0) return refuse(base, strerror(errno));
    int written = look_over(folder);
    if (written < 0) {
        refuse(base, strerror(errno));
    } else {
        if (written > 0) remove_others(base);
        if (point_to_libraries(folder) == 0) execv(program, argv);
        refuse(base, strerror(errno));
    }
    close(lock);
    return -1;
}

/* Where this file lies, so that a service can be told to start it. */
static void tell_where(const char *name) {
    char path[PATH_MAX] = "";
#ifdef __APPLE__
    char raw[PATH_MAX];
    uint32_t room = sizeof raw;
    if (_NSGetExecutablePath(raw, &room) != 0 || realpath(raw, path) == NULL) path[0] = '\0';
#else
    ssize_t size = readlink("/proc/self/exe", path, sizeof path - 1);
    path[size > 0 ? size : 0] = '\0';
#endif
    setenv(STARTED_AS_VARIABLE, path[0] ? path : name, 1);
}

int main(int argc, char **argv) {
    char place[PATH_MAX];
    const char *named = getenv(FOLDER_VARIABLE), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    tell_where(argc > 0 ? argv[0] : PROGRAM);
    if (named != NULL && *named != '\0') {
        become_agent(named, argv);
    } else {
        if (cache != NULL && *cache == '/' && join(place, cache, "vespid-agent")) become_agent(place, argv);
        if (home != NULL && *home == '/' && join(place, home, ".cache/vespid-agent")) become_agent(place, argv);
        const char *shared[] = {"/var/tmp", "/tmp"};
        for (size_t i = 0; i < sizeof shared / sizeof *shared; i++) {
            snprintf(place, sizeof place, "%s/vespid-agent-%ld", shared[i], (long)geteuid());
            become_agent(place, argv);
        }
    }
    fprintf(stderr, "vespid-agent: there is no folder to unpack into:\n%sName one by " FOLDER_VARIABLE ".\n", refused);
    return CANNOT_EXECUTE;
}
