/* What the files of linux:hmm have of each other. */
#ifndef LW_HMM_H
#define LW_HMM_H

#include <stddef.h>

/* One command of the driver, on pages of 4 KiB: 0 or an errno. */
int hmm_do(int fd, unsigned long code, char *at, size_t pages, void *data);
/* Before a process uses the driver first.  Memory that is faulted in later might take a frame that
 * the arena has lost, and what passes through it would look to a stale translation like what is
 * there now. */
void hmm_touch_buffers(void);
/* The path of the device. */
void hmm_node(unsigned device, char *path, size_t size);
/* The file of the device as it is attached now. */
int hmm_file(unsigned device);
/* Whether any page of the arena is in the memory of the device. */
int hmm_has_pages(unsigned device);

#endif
