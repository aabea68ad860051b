/* Preloaded: requests past the page cache that are refused (ODD_DIRECT=read, write) or end anywhere (short-read,
   short-write). Leaves ODD_LOG where it did that. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_odd(int fd, const char* kind) {
  const char* wanted = getenv("ODD_DIRECT");
  const int flags = fcntl(fd, F_GETFL);
  return wanted != NULL && strcmp(wanted, kind) == 0 && flags >= 0 && (flags & O_DIRECT) != 0;
}

static void leave_word(void) {
  const char* log = getenv("ODD_LOG");
  if (log != NULL) close(open(log, O_CREAT | O_WRONLY, 0600));
}

/* What is done by then is done whole, and told as less: the rest is done again. */
static ssize_t told(ssize_t n) {
  return n > 2000 ? n - 1111 : n;
}

typedef ssize_t (*reader)(int, void*, size_t, off_t);
typedef ssize_t (*writer)(int, const void*, size_t, off_t);

static ssize_t odd_read(const char* name, int fd, void* memory, size_t bytes, off_t offset) {
  reader next = (reader)dlsym(RTLD_NEXT, name);
  if (is_odd(fd, "read")) {
    leave_word();
    errno = EINVAL;
    return -1;
  }
  if (!is_odd(fd, "short-read")) return next(fd, memory, bytes, offset);
  leave_word();
  ssize_t n = told(next(fd, memory, bytes, offset));
  if (n > 0 && (size_t)n < bytes) memset((char*)memory + n, 0x5a, bytes - (size_t)n);
  return n;
}

static ssize_t odd_write(const char* name, int fd, const void* memory, size_t bytes, off_t offset) {
  writer next = (writer)dlsym(RTLD_NEXT, name);
  if (is_odd(fd, "write")) {
    leave_word();
    errno = EINVAL;
    return -1;
  }
  if (!is_odd(fd, "short-write") || bytes <= 8192) return next(fd, memory, bytes, offset);
  leave_word();
  ssize_t n = next(fd, memory, bytes - 4096, offset);
  return n > 4096 ? n - 1111 : n;
}

ssize_t pread(int fd, void* memory, size_t bytes, off_t offset) {
  return odd_read("pread", fd, memory, bytes, offset);
}
ssize_t pread64(int fd, void* memory, size_t bytes, off_t offset) {
  return odd_read("pread64", fd, memory, bytes, offset);
}
ssize_t pwrite(int fd, const void* memory, size_t bytes, off_t offset) {
  return odd_write("pwrite", fd, memory, bytes, offset);
}
ssize_t pwrite64(int fd, const void* memory, size_t bytes, off_t offset) {
  return odd_write("pwrite64", fd, memory, bytes, offset);
}
