//! The C library's allocator, with a shorter way to blocks of a large alignment. In: what Rust asks for. Out: the same blocks from the same heap.
//!
//! tokio aligns each task to two cache lines. glibc makes such a block out of a larger one, whose ends it frees at once, and keeps none
//! of them at hand for the next (`_int_memalign`, past the thread's cache): 620 instructions for each request over HTTP/2, where a
//! block with usual alignment takes 50. So these are cut here from a block with usual alignment, which the thread's cache knows.

#![allow(unsafe_code, reason = "an allocator is one")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    mem::size_of,
    ptr,
};

/// What every block of `malloc` has on 64-bit machines.
const USUAL: usize = 16;

/// See the module.
#[derive(Debug)]
pub(crate) struct Aligned;

/// The block that a block of a larger alignment is cut from.
fn around(layout: Layout) -> Option<Layout> {
    Layout::from_size_align(layout.size().checked_add(layout.align())?, USUAL).ok()
}

// SAFETY: blocks with usual alignment are the system's. Any other lies in a block of the system's that is larger by its alignment,
// begins at a multiple of that, and is preceded by the address of the block around it, which is what is freed.
unsafe impl GlobalAlloc for Aligned {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= USUAL {
            // SAFETY: the caller's promise holds for the system as well.
            return unsafe { System.alloc(layout) };
        }
        let Some(around) = around(layout) else { return ptr::null_mut() };
        // SAFETY: `around` is not of size zero, as an alignment is not.
        let block = unsafe { System.alloc(around) };
        if block.is_null() {
            return block;
        }
        let offset = layout.align() - block.addr() % layout.align();
        // SAFETY: `block` is a multiple of `USUAL`, so `offset` is one too: at least `USUAL`, which has room for an address, and at most the
        // alignment, by which `around` is larger than what is asked for.
        unsafe {
            // Whoever gives the block back may only know what lies in it, and `dealloc` reads in front of that.
            block.expose_provenance();
            let aligned = block.add(offset);
            aligned.sub(size_of::<*mut u8>()).cast::<*mut u8>().write(block);
            aligned
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if layout.align() <= USUAL {
            // SAFETY: `alloc` had it from the system with this layout.
            return unsafe { System.dealloc(pointer, layout) };
        }
        // It was computed once for `alloc`, and does not fail now.
        let Some(around) = around(layout) else { return };
        // SAFETY: `alloc` wrote the address of the block, which has this layout, in front of what it gave, and exposed its provenance.
        unsafe {
            let block = ptr::with_exposed_provenance::<*mut u8>(pointer.addr() - size_of::<*mut u8>()).read();
            System.dealloc(block, around);
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= USUAL {
            // SAFETY: the caller's promise holds for the system as well.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: as promised to us; the block has that size.
        unsafe {
            let block = self.alloc(layout);
            if !block.is_null() {
                block.write_bytes(0, layout.size());
            }
            block
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.align() <= USUAL {
            // SAFETY: `alloc` had it from the system with this layout.
            return unsafe { System.realloc(pointer, layout, size) };
        }
        let Ok(new) = Layout::from_size_align(size, layout.align()) else { return ptr::null_mut() };
        // SAFETY: `pointer` has the old layout, the new block the new one, and what both have room for is copied.
        unsafe {
            let block = self.alloc(new);
            if !block.is_null() {
                ptr::copy_nonoverlapping(pointer, block, layout.size().min(size));
                self.dealloc(pointer, layout);
            }
            block
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::slice;

    #[test]
    fn blocks_lie_as_asked_for_and_keep_what_is_in_them() {
        for align in [1, 16, 32, 128, 4096] {
            for size in [1, 100, 1000, 100_000] {
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: blocks are used within their sizes, and freed once with the layouts that they have.
                unsafe {
                    let block = Aligned.alloc_zeroed(layout);
                    assert_eq!(block.addr() % align, 0, "{size} {align}");
                    // As slices, which Miri compares in one step.
                    assert!(slice::from_raw_parts(block, size) == vec![0; size]);
                    block.write_bytes(7, size);
                    let other = Aligned.alloc(layout);
                    other.write_bytes(9, size);
                    let grown = Aligned.realloc(block, layout, 3 * size);
                    assert_eq!(grown.addr() % align, 0, "{size} {align}");
                    assert!(slice::from_raw_parts(grown, size) == vec![7; size]);
                    Aligned.dealloc(grown, Layout::from_size_align(3 * size, align).unwrap());
                    Aligned.dealloc(other, layout);
                }
            }
        }
    }

    #[test]
    fn what_no_memory_has_room_for_is_refused() {
        let layout = Layout::from_size_align(isize::MAX as usize & !4095, 4096).unwrap();
        // SAFETY: the layout is not of size zero; what comes is looked at and not used.
        assert!(unsafe { Aligned.alloc(layout) }.is_null());
    }
}
