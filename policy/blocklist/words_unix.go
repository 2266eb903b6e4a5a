//go:build unix

package blocklist

import "syscall"

// outside returns n zero bytes outside the Go heap, and the function that frees them. free is nil if they are on the heap.
func outside(n int) (b []byte, free func()) {
	b, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return make([]byte, n), nil
	}
	return b, func() { _ = syscall.Munmap(b) }
}
