/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The border between C and Rust. Every kernel structure and every kernel macro
 * stays on the C side (shim.c); what to do is decided on the Rust side (src/).
 * src/shim.rs declares the same names: the two files change together.
 *
 * Unless said otherwise an int is 0 or a negative error number.
 */
#ifndef DEVMAP_SHIM_H
#define DEVMAP_SHIM_H

#include <linux/types.h>

struct file;
struct page;
struct poll_table_struct;
struct vm_area_struct;

/* Bits of what open(2) asked for, as devmap_file_flags() answers them. */
#define DEVMAP_READ 1
#define DEVMAP_WRITE 2
#define DEVMAP_NONBLOCK 4
#define DEVMAP_APPEND 8

/* Bits of the area that mmap(2) asked for. */
#define DEVMAP_AREA_READ 1
#define DEVMAP_AREA_WRITE 2
#define DEVMAP_AREA_EXEC 4
#define DEVMAP_AREA_SHARED 8

/* Area flags, with the values of the Rust side's AreaFlags. */
#define DEVMAP_IO 1
#define DEVMAP_DONTEXPAND 2
#define DEVMAP_DONTDUMP 4

/* One open file: file->private_data. Rust sees a pointer and never looks in. */
struct devmap_open;

/* A device's methods. device and state are Rust's own; C only hands them back. */
struct devmap_operations {
	int (*open)(void *device, u32 flags, u32 pid, void **state);
	void (*release)(void *device, void *state);
	ssize_t (*read)(void *device, void *state, struct file *file, u64 address,
			size_t len, u64 position);
	ssize_t (*write)(void *device, void *state, struct file *file, u64 address,
			 size_t len, u64 position);
	s64 (*llseek)(void *device, void *state, u32 whence, s64 by, u64 position);
	long (*ioctl)(void *device, void *state, struct file *file, u32 command,
		      u64 argument);
	u32 (*poll)(void *device, void *state, struct file *file,
		    struct poll_table_struct *table);
	/* On success *mapping is one reference, given back by devmap_mapping_close;
	 * *by_page: areas need the fault method. */
	int (*mmap)(void *device, void *state, struct devmap_open *open,
		    struct vm_area_struct *vma, u64 first_page, u64 pages, u32 bits,
		    void **mapping, bool *by_page);
	/* *page carries a reference. */
	int (*fault)(void *device, void *state, struct devmap_open *open, void *mapping,
		     u64 page_of_device, bool write, struct page **page);
	void (*drop)(void *device);
};

/* Rust, called by C. */
int devmap_init(void);
void devmap_mapping_open(void *mapping);
void devmap_mapping_close(void *mapping);

/* C, called by Rust: the devices of the module. */
const char *devmap_option(const char *device, size_t device_len, const char *option,
			  size_t option_len, bool *known);
int devmap_add(const struct devmap_operations *operations, void *device,
	       const char *name, size_t name_len, s64 major, u32 minor, u16 mode,
	       bool stream);
void devmap_log(const char *text, size_t len);
void devmap_refused(struct devmap_open *open, const char *text, size_t len);
void devmap_panic(const char *text, size_t len);

/* Memory and time. */
void *devmap_alloc(size_t bytes);
void devmap_free(void *address);
void *devmap_pages_alloc(u64 pages, bool contiguous);
void devmap_pages_free(void *address, u64 pages, bool contiguous);
struct page *devmap_pages_get(void *address, u64 page, bool contiguous);
bool devmap_pages_mapped(void *address, u64 pages, bool contiguous);
void devmap_copy(void *to, const void *from, size_t len);
u32 devmap_page_size(void);
u64 devmap_now(void);

/* One page that an open file caches. */
void *devmap_filled_alloc(struct page **page);
void devmap_filled_free(struct page *page);
struct page *devmap_filled_get(struct devmap_open *open, u64 index);
int devmap_filled_add(struct devmap_open *open, u64 index, struct page **page);

/* Locks and waiting. */
void *devmap_mutex_new(void);
void devmap_mutex_lock(void *mutex);
void devmap_mutex_unlock(void *mutex);
void *devmap_queue_new(void);
void devmap_queue_wake(void *queue);
bool devmap_queue_wait(void *queue, bool (*ready)(void *data), void *data);
void devmap_queue_poll(void *queue, struct file *file, struct poll_table_struct *table);

/* The caller. */
u32 devmap_file_flags(struct file *file);
bool devmap_copy_from_user(void *to, u64 from, size_t len);
bool devmap_copy_to_user(u64 to, const void *from, size_t len);

/* The area under construction. */
void devmap_area_flags(struct vm_area_struct *vma, u32 flags);
int devmap_area_remap(struct vm_area_struct *vma, void *address);
int devmap_area_insert(struct vm_area_struct *vma, u64 at, void *address, u64 first_page,
		       u64 pages, bool contiguous);

#endif
