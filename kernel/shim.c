// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * The C half of a devmap kernel module. It owns every kernel structure and reaches
 * every kernel macro; it decides nothing. A module's main.c defines DEVMAP_OPTIONS
 * and includes this file, so that each module has parameters of its own.
 */
#include <linux/cdev.h>
#include <linux/compat.h>
#include <linux/device.h>
#include <linux/fs.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/poll.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <linux/vmalloc.h>
#include <linux/wait.h>
#include <linux/xarray.h>

#include "shim.h"

#define DEVMAP_INSERT_BATCH 16

/* Parameters */

#define DEVMAP_PARAMETER(device, option)                                          \
	static char *device##_##option;                                           \
	module_param(device##_##option, charp, 0444);                             \
	MODULE_PARM_DESC(device##_##option, "option " #option " of the device " #device);
DEVMAP_OPTIONS(DEVMAP_PARAMETER)

static unsigned long memory_limit;
module_param(memory_limit, ulong, 0644);
MODULE_PARM_DESC(memory_limit,
		 "bytes that all devices together may hold (0: a quarter of the machine's)");

const char *devmap_option(const char *device, size_t device_len, const char *option,
			  size_t option_len, bool *known)
{
#define DEVMAP_ENTRY(device, option) { #device, #option, &device##_##option },
	static const struct { const char *device, *option; char **value; } entries[] = {
		DEVMAP_OPTIONS(DEVMAP_ENTRY) {}
	};
	const typeof(entries[0]) *entry;

	for (entry = entries; entry->device; entry++) {
		*known = strlen(entry->device) == device_len &&
			 strlen(entry->option) == option_len &&
			 !memcmp(entry->device, device, device_len) &&
			 !memcmp(entry->option, option, option_len);
		if (*known)
			return *entry->value;
	}
	*known = false;
	return NULL;
}

/* Devices */

struct devmap_node {
	struct list_head list;
	struct cdev cdev;
	dev_t number;
	bool reserved, added, shown;
	const struct devmap_operations *operations;
	void *device;
	s64 major;	/* below 0: any */
	u32 minor;
	umode_t mode;
	bool stream;
	char name[];
};

struct devmap_open {
	const struct devmap_operations *operations;
	void *device;
	void *state;
	struct xarray filled;	/* page of the device -> struct page */
	const char *name;
};

static LIST_HEAD(devmap_nodes);
static struct class *devmap_class;
static atomic_long_t devmap_pages_held;

int devmap_add(const struct devmap_operations *operations, void *device,
	       const char *name, size_t name_len, s64 major, u32 minor, u16 mode,
	       bool stream)
{
	struct devmap_node *node = kzalloc(sizeof(*node) + name_len + 1, GFP_KERNEL);

	if (!node)
		return -ENOMEM;
	memcpy(node->name, name, name_len);
	node->operations = operations;
	node->device = device;
	node->major = major;
	node->minor = minor;
	node->mode = mode;
	node->stream = stream;
	list_add_tail(&node->list, &devmap_nodes);
	return 0;
}

void devmap_log(const char *text, size_t len)
{
	pr_err("%s: %.*s\n", KBUILD_MODNAME, (int)len, text);
}

void devmap_refused(struct devmap_open *open, const char *text, size_t len)
{
	pr_err_ratelimited("%s: the driver of %s answered mmap with a plan that %.*s\n",
			   KBUILD_MODNAME, open->name, (int)len, text);
}

void devmap_panic(const char *text, size_t len)
{
	pr_emerg("%s: %.*s\n", KBUILD_MODNAME, (int)len, text);
}

/* Memory and time */

static bool devmap_pages_take(unsigned long pages)
{
	unsigned long limit = READ_ONCE(memory_limit) >> PAGE_SHIFT;

	if (!limit)
		limit = totalram_pages() / 4;
	if (atomic_long_add_return(pages, &devmap_pages_held) <= limit)
		return true;
	atomic_long_sub(pages, &devmap_pages_held);
	return false;
}

static void devmap_pages_give(unsigned long pages)
{
	atomic_long_sub(pages, &devmap_pages_held);
}

void *devmap_alloc(size_t bytes)
{
	return kmalloc(bytes, GFP_KERNEL);
}

void devmap_free(void *address)
{
	kfree(address);
}

void *devmap_pages_alloc(u64 pages, bool contiguous)
{
	const gfp_t flags = GFP_KERNEL_ACCOUNT | __GFP_ZERO | __GFP_NOWARN;
	void *address;

	if (pages > LONG_MAX >> PAGE_SHIFT || !devmap_pages_take(pages))
		return NULL;
	/* Not kmalloc: slab pages may not be mapped. alloc_pages_exact splits, so
	 * that each page has a reference count of its own. */
	if (contiguous)
		address = alloc_pages_exact(pages << PAGE_SHIFT, flags);
	else
		address = __vmalloc(pages << PAGE_SHIFT, flags);
	if (!address)
		devmap_pages_give(pages);
	return address;
}

void devmap_pages_free(void *address, u64 pages, bool contiguous)
{
	if (contiguous)
		free_pages_exact(address, pages << PAGE_SHIFT);
	else
		vfree(address);
	devmap_pages_give(pages);
}

static struct page *devmap_page(void *address, u64 page, bool contiguous)
{
	address += page << PAGE_SHIFT;
	return contiguous ? virt_to_page(address) : vmalloc_to_page(address);
}

struct page *devmap_pages_get(void *address, u64 page, bool contiguous)
{
	struct page *found = devmap_page(address, page, contiguous);

	get_page(found);
	return found;
}

bool devmap_pages_mapped(void *address, u64 pages, bool contiguous)
{
	u64 page;

	for (page = 0; page < pages; page++)
		if (folio_mapped(page_folio(devmap_page(address, page, contiguous))))
			return true;
	return false;
}

/* Opaque to the Rust compiler on purpose: programs write the other side at will. */
void devmap_copy(void *to, const void *from, size_t len)
{
	memcpy(to, from, len);
}

u32 devmap_page_size(void)
{
	return PAGE_SIZE;
}

u64 devmap_now(void)
{
	return ktime_get_ns();
}

/* Pages that an open file caches */

void *devmap_filled_alloc(struct page **page)
{
	if (!devmap_pages_take(1))
		return NULL;
	*page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
	if (!*page) {
		devmap_pages_give(1);
		return NULL;
	}
	return page_address(*page);
}

void devmap_filled_free(struct page *page)
{
	put_page(page);
	devmap_pages_give(1);
}

struct page *devmap_filled_get(struct devmap_open *open, u64 index)
{
	/* Entries go only at release, which comes after the last fault. */
	struct page *page = xa_load(&open->filled, index);

	if (page)
		get_page(page);
	return page;
}

/* The cache takes *page, unless it has that page already: then *page is freed and
 * becomes the one in the cache. Either way with a reference for the caller. */
int devmap_filled_add(struct devmap_open *open, u64 index, struct page **page)
{
	struct page *there = xa_cmpxchg(&open->filled, index, NULL, *page, GFP_KERNEL);

	if (there) {
		devmap_filled_free(*page);
		if (xa_is_err(there))
			return xa_err(there);
		*page = there;
	}
	get_page(*page);
	return 0;
}

/* Locks and waiting */

void *devmap_mutex_new(void)
{
	struct mutex *mutex = kmalloc(sizeof(*mutex), GFP_KERNEL);

	if (mutex)
		mutex_init(mutex);
	return mutex;
}

void devmap_mutex_lock(void *mutex)
{
	mutex_lock(mutex);
}

void devmap_mutex_unlock(void *mutex)
{
	mutex_unlock(mutex);
}

void *devmap_queue_new(void)
{
	wait_queue_head_t *queue = kmalloc(sizeof(*queue), GFP_KERNEL);

	if (queue)
		init_waitqueue_head(queue);
	return queue;
}

void devmap_queue_wake(void *queue)
{
	wake_up_all((wait_queue_head_t *)queue);
}

/* wait_event_interruptible for a condition that may itself sleep (it takes locks):
 * woken_wake_function remembers a wake that comes meanwhile. */
bool devmap_queue_wait(void *queue, bool (*ready)(void *data), void *data)
{
	DEFINE_WAIT_FUNC(wait, woken_wake_function);
	bool done;

	if (ready(data))
		return true;
	add_wait_queue(queue, &wait);
	while (!(done = ready(data)) && !signal_pending(current))
		wait_woken(&wait, TASK_INTERRUPTIBLE, MAX_SCHEDULE_TIMEOUT);
	remove_wait_queue(queue, &wait);
	return done;
}

void devmap_queue_poll(void *queue, struct file *file, struct poll_table_struct *table)
{
	poll_wait(file, queue, table);
}

/* The caller */

u32 devmap_file_flags(struct file *file)
{
	return (file->f_mode & FMODE_READ ? DEVMAP_READ : 0) |
	       (file->f_mode & FMODE_WRITE ? DEVMAP_WRITE : 0) |
	       (file->f_flags & O_NONBLOCK ? DEVMAP_NONBLOCK : 0) |
	       (file->f_flags & O_APPEND ? DEVMAP_APPEND : 0);
}

/* Without the check of the kernel's own pointer, as copy_from_user does for a length
 * that is constant: it is a Rust slice, whose length holds. */
bool devmap_copy_from_user(void *to, u64 from, size_t len)
{
	return !_copy_from_user(to, u64_to_user_ptr(from), len);
}

bool devmap_copy_to_user(u64 to, const void *from, size_t len)
{
	return !_copy_to_user(u64_to_user_ptr(to), from, len);
}

/* The area under construction */

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
static void vm_flags_set(struct vm_area_struct *vma, unsigned long flags)
{
	vma->vm_flags |= flags;
}
#endif

void devmap_area_flags(struct vm_area_struct *vma, u32 flags)
{
	vm_flags_set(vma, (flags & DEVMAP_IO ? VM_IO : 0) |
			  (flags & DEVMAP_DONTEXPAND ? VM_DONTEXPAND : 0) |
			  (flags & DEVMAP_DONTDUMP ? VM_DONTDUMP : 0));
}

/* The whole area from contiguous pages that begin at address. On failure the pages
 * are out of the page table again, so that they may be freed. */
int devmap_area_remap(struct vm_area_struct *vma, void *address)
{
	unsigned long size = vma->vm_end - vma->vm_start;
	int err = remap_pfn_range(vma, vma->vm_start, page_to_pfn(virt_to_page(address)),
				  size, vma->vm_page_prot);

	if (err && vma->vm_flags & VM_PFNMAP)
		zap_vma_ptes(vma, vma->vm_start, size);
	return err;
}

int devmap_area_insert(struct vm_area_struct *vma, u64 at, void *address, u64 first_page,
		       u64 pages, bool contiguous)
{
	unsigned long to = vma->vm_start + (at << PAGE_SHIFT);
	struct page *batch[DEVMAP_INSERT_BATCH];
	unsigned long count, left, i;
	int err;

	/* vm_insert_pages would set it too, but a plan of fault extents alone needs it as
	 * well: without it Linux 6.12 merges neighbouring areas, and never asks mmap. */
	vm_flags_set(vma, VM_MIXEDMAP);
	for (; pages; pages -= count, first_page += count, to += count << PAGE_SHIFT) {
		count = min_t(u64, pages, DEVMAP_INSERT_BATCH);
		for (i = 0; i < count; i++)
			batch[i] = devmap_page(address, first_page + i, contiguous);
		left = count;
		err = vm_insert_pages(vma, to, batch, &left);
		if (err)
			return err;
	}
	return 0;
}

static void devmap_vma_open(struct vm_area_struct *vma)
{
	devmap_mapping_open(vma->vm_private_data);
}

static void devmap_vma_close(struct vm_area_struct *vma)
{
	devmap_mapping_close(vma->vm_private_data);
}

static vm_fault_t devmap_vma_fault(struct vm_fault *vmf)
{
	struct devmap_open *open = vmf->vma->vm_file->private_data;
	int err = open->operations->fault(open->device, open->state, open,
					  vmf->vma->vm_private_data, vmf->pgoff,
					  vmf->flags & FAULT_FLAG_WRITE, &vmf->page);

	return err ? VM_FAULT_SIGBUS : 0;
}

/* VM_PFNMAP areas: everything is mapped, and a page from a fault method would BUG. */
static const struct vm_operations_struct devmap_remap_vm_operations = {
	.open = devmap_vma_open,
	.close = devmap_vma_close,
};

static const struct vm_operations_struct devmap_page_vm_operations = {
	.open = devmap_vma_open,
	.close = devmap_vma_close,
	.fault = devmap_vma_fault,
};

/* File operations */

static int devmap_open(struct inode *inode, struct file *file)
{
	struct devmap_node *node = container_of(inode->i_cdev, struct devmap_node, cdev);
	struct devmap_open *open = kmalloc(sizeof(*open), GFP_KERNEL_ACCOUNT);
	int err;

	if (!open)
		return -ENOMEM;
	open->operations = node->operations;
	open->device = node->device;
	open->name = node->name;
	xa_init(&open->filled);
	err = open->operations->open(open->device, devmap_file_flags(file),
				     task_tgid_vnr(current), &open->state);
	if (err) {
		kfree(open);
		return err;
	}
	file->private_data = open;
	return node->stream ? stream_open(inode, file) : 0;
}

static int devmap_release(struct inode *inode, struct file *file)
{
	struct devmap_open *open = file->private_data;
	struct page *page;
	unsigned long index;

	open->operations->release(open->device, open->state);
	xa_for_each(&open->filled, index, page)
		devmap_filled_free(page);
	xa_destroy(&open->filled);
	kfree(open);
	return 0;
}

static ssize_t devmap_read(struct file *file, char __user *to, size_t len, loff_t *ppos)
{
	struct devmap_open *open = file->private_data;
	ssize_t done = open->operations->read(open->device, open->state, file,
					      (unsigned long)to, len, ppos ? *ppos : 0);

	if (done > 0 && ppos)
		*ppos += done;
	return done;
}

static ssize_t devmap_write(struct file *file, const char __user *from, size_t len,
			    loff_t *ppos)
{
	struct devmap_open *open = file->private_data;
	ssize_t done = open->operations->write(open->device, open->state, file,
					       (unsigned long)from, len, ppos ? *ppos : 0);

	if (done > 0 && ppos)
		*ppos += done;
	return done;
}

static loff_t devmap_llseek(struct file *file, loff_t by, int whence)
{
	struct devmap_open *open = file->private_data;
	loff_t position = open->operations->llseek(open->device, open->state, whence, by,
						   file->f_pos);

	if (position >= 0)
		file->f_pos = position;
	return position;
}

static long devmap_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	struct devmap_open *open = file->private_data;

	return open->operations->ioctl(open->device, open->state, file, command, argument);
}

static __poll_t devmap_poll(struct file *file, struct poll_table_struct *table)
{
	struct devmap_open *open = file->private_data;

	return (__force __poll_t)open->operations->poll(open->device, open->state, file,
							table);
}

static int devmap_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct devmap_open *open = file->private_data;
	bool by_page = false;
	u32 bits = (vma->vm_flags & VM_READ ? DEVMAP_AREA_READ : 0) |
		   (vma->vm_flags & VM_WRITE ? DEVMAP_AREA_WRITE : 0) |
		   (vma->vm_flags & VM_EXEC ? DEVMAP_AREA_EXEC : 0) |
		   (vma->vm_flags & VM_SHARED ? DEVMAP_AREA_SHARED : 0);
	int err = open->operations->mmap(open->device, open->state, open, vma,
					 vma->vm_pgoff, vma_pages(vma), bits,
					 &vma->vm_private_data, &by_page);

	if (!err)
		vma->vm_ops = by_page ? &devmap_page_vm_operations :
					&devmap_remap_vm_operations;
	return err;
}

static const struct file_operations devmap_file_operations = {
	.owner = THIS_MODULE,
	.open = devmap_open,
	.release = devmap_release,
	.read = devmap_read,
	.write = devmap_write,
	.llseek = devmap_llseek,
	.unlocked_ioctl = devmap_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.poll = devmap_poll,
	.mmap = devmap_mmap,
};

/* The module */

/* The mode of /dev/MODULE-NAME. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 2, 0)
static char *devmap_devnode(struct device *device, umode_t *mode)
#else
static char *devmap_devnode(const struct device *device, umode_t *mode)
#endif
{
	struct devmap_node *node = dev_get_drvdata(device);

	if (mode)
		*mode = node->mode;
	return NULL;
}

static int devmap_reserve(struct devmap_node *node)
{
	int err;

	if (node->major < 0) {
		err = alloc_chrdev_region(&node->number, 0, 1, KBUILD_MODNAME);
	} else {
		node->number = MKDEV(node->major, node->minor);
		err = register_chrdev_region(node->number, 1, KBUILD_MODNAME);
	}
	node->reserved = !err;
	return err;
}

static int devmap_publish(struct devmap_node *node)
{
	struct device *device;
	int err;

	cdev_init(&node->cdev, &devmap_file_operations);
	node->cdev.owner = THIS_MODULE;
	err = cdev_add(&node->cdev, node->number, 1);
	if (err)
		return err;
	device = device_create(devmap_class, NULL, node->number, node, "%s-%s",
			       KBUILD_MODNAME, node->name);
	/* Without its node the device stays: by its number it may be open already. */
	node->shown = !IS_ERR(device);
	node->added = true;
	return PTR_ERR_OR_ZERO(device);
}

static void devmap_remove_all(void)
{
	struct devmap_node *node, *next;

	list_for_each_entry_safe(node, next, &devmap_nodes, list) {
		if (node->shown)
			device_destroy(devmap_class, node->number);
		if (node->added)
			cdev_del(&node->cdev);
		if (node->reserved)
			unregister_chrdev_region(node->number, 1);
		node->operations->drop(node->device);
		kfree(node);
	}
	class_destroy(devmap_class);
}

static int __init devmap_module_init(void)
{
	struct devmap_node *node;
	int err;

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 4, 0)
	devmap_class = class_create(THIS_MODULE, KBUILD_MODNAME);
#else
	devmap_class = class_create(KBUILD_MODNAME);
#endif
	if (IS_ERR(devmap_class))
		return PTR_ERR(devmap_class);
	devmap_class->devnode = devmap_devnode;
	/* All devices are made, and have their numbers, before any can be opened. */
	err = devmap_init();
	if (err)
		goto remove;
	list_for_each_entry(node, &devmap_nodes, list) {
		err = devmap_reserve(node);
		if (err) {
			pr_err("%s: cannot register %s: error %d\n", KBUILD_MODNAME,
			       node->name, err);
			goto remove;
		}
	}
	/* From the first on somebody may have one open, so the module stays. */
	list_for_each_entry(node, &devmap_nodes, list) {
		err = devmap_publish(node);
		if (err)
			pr_err("%s: does without %s: error %d\n", KBUILD_MODNAME,
			       node->name, err);
	}
	return 0;
remove:
	devmap_remove_all();
	return err;
}

static void __exit devmap_module_exit(void)
{
	devmap_remove_all();
	/* Nothing is open or mapped now, so a page that is held has no owner. */
	WARN_ON(atomic_long_read(&devmap_pages_held));
}

module_init(devmap_module_init);
module_exit(devmap_module_exit);
MODULE_LICENSE("Dual MIT/GPL");
