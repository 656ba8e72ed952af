// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * The module peer: by hand in C what demo, pattern and events do, in one device, to
 * count instructions against (`cargo xtask kernel --figures`). Pages of its file:
 *
 *   0..16    the scattered area, 16..32 the contiguous one, as demo
 *   32..     faulted pages, filled as pattern does and kept for each open file
 *
 * ioctl E 5 inverts 88 bytes, as events.
 */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <linux/xarray.h>

#define PEER_PAGES 16
#define PEER_INVERT _IOWR('E', 5, u8[88])

static void *peer_scattered, *peer_contiguous;
static atomic_t peer_maps;

static void peer_vma_open(struct vm_area_struct *vma)
{
	atomic_inc(&peer_maps);
}

static void peer_vma_close(struct vm_area_struct *vma)
{
	atomic_dec(&peer_maps);
}

static vm_fault_t peer_vma_fault(struct vm_fault *vmf)
{
	struct xarray *filled = vmf->vma->vm_file->private_data;
	struct page *page = xa_load(filled, vmf->pgoff), *there;
	u64 offset = (u64)(vmf->pgoff - 2 * PEER_PAGES) << PAGE_SHIFT, *words;
	int i;

	if (!page) {
		page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
		if (!page)
			return VM_FAULT_SIGBUS;
		words = page_address(page);
		for (i = 0; i < PAGE_SIZE / 8; i++)
			words[i] = cpu_to_le64(offset + i * 8);
		there = xa_cmpxchg(filled, vmf->pgoff, NULL, page, GFP_KERNEL);
		if (there) {
			put_page(page);
			if (xa_is_err(there))
				return VM_FAULT_SIGBUS;
			page = there;
		}
	}
	get_page(page);
	vmf->page = page;
	return 0;
}

static const struct vm_operations_struct peer_remap_operations = {
	.open = peer_vma_open,
	.close = peer_vma_close,
};

static const struct vm_operations_struct peer_fault_operations = {
	.open = peer_vma_open,
	.close = peer_vma_close,
	.fault = peer_vma_fault,
};

static int peer_mmap(struct file *file, struct vm_area_struct *vma)
{
	unsigned long size = vma->vm_end - vma->vm_start;
	int err = 0;

	if (vma->vm_pgoff < 2 * PEER_PAGES && size > PEER_PAGES << PAGE_SHIFT)
		return -EIO;
	vma->vm_ops = &peer_remap_operations;
	if (vma->vm_pgoff == 0)
		err = remap_vmalloc_range(vma, peer_scattered, 0);
	else if (vma->vm_pgoff == PEER_PAGES)
		err = remap_pfn_range(vma, vma->vm_start,
				      page_to_pfn(virt_to_page(peer_contiguous)), size,
				      vma->vm_page_prot);
	else if (vma->vm_pgoff < 2 * PEER_PAGES)
		err = -EIO;
	else
		vma->vm_ops = &peer_fault_operations;
	if (!err)
		peer_vma_open(vma);
	return err;
}

static long peer_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	u8 bytes[88];
	int i;

	if (command != PEER_INVERT)
		return -ENOTTY;
	if (copy_from_user(bytes, (void __user *)argument, sizeof(bytes)))
		return -EFAULT;
	for (i = 0; i < sizeof(bytes); i++)
		bytes[i] = ~bytes[i];
	if (copy_to_user((void __user *)argument, bytes, sizeof(bytes)))
		return -EFAULT;
	return 0;
}

static int peer_open(struct inode *inode, struct file *file)
{
	struct xarray *filled = kmalloc(sizeof(*filled), GFP_KERNEL);

	if (!filled)
		return -ENOMEM;
	xa_init(filled);
	file->private_data = filled;
	return 0;
}

static int peer_release(struct inode *inode, struct file *file)
{
	struct xarray *filled = file->private_data;
	struct page *page;
	unsigned long index;

	xa_for_each(filled, index, page)
		put_page(page);
	xa_destroy(filled);
	kfree(filled);
	return 0;
}

static const struct file_operations peer_operations = {
	.owner = THIS_MODULE,
	.open = peer_open,
	.release = peer_release,
	.mmap = peer_mmap,
	.unlocked_ioctl = peer_ioctl,
};

static struct miscdevice peer_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "peer",
	.fops = &peer_operations,
	.mode = 0666,
};

static void peer_free(void)
{
	vfree(peer_scattered);
	if (peer_contiguous)
		free_pages_exact(peer_contiguous, PEER_PAGES << PAGE_SHIFT);
}

static int __init peer_init(void)
{
	int err = -ENOMEM;

	peer_scattered = vmalloc_user(PEER_PAGES << PAGE_SHIFT);
	peer_contiguous = alloc_pages_exact(PEER_PAGES << PAGE_SHIFT, GFP_KERNEL | __GFP_ZERO);
	if (peer_scattered && peer_contiguous)
		err = misc_register(&peer_device);
	if (err)
		peer_free();
	return err;
}

static void __exit peer_exit(void)
{
	misc_deregister(&peer_device);
	peer_free();
}

module_init(peer_init);
module_exit(peer_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("devices by hand in C, to count instructions against");
